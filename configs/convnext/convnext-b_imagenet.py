_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/convnext-b.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=(3,), init_cfg=None, gap_before_final_norm=True, drop_path_rate=0.5),
    neck=None,
    head=dict(in_channels=_base_.peer_channels[-1]),
)
