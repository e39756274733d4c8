_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/swin-t.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=_base_.peer.out_indices[-1:], init_cfg=None),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
