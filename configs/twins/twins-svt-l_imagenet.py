_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/twins-svt-l.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=(3,), init_cfg=None, norm_after_stage=[False, False, False, True]),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
