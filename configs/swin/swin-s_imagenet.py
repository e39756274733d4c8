_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/swin-s.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=_base_.peer.out_indices[-1:], init_cfg=None, drop_path_rate=0.3),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
