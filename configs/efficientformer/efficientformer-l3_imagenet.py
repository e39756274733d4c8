_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/efficientformer-l3.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=_base_.peer.out_indices[-1:], init_cfg=None, last_norm='LN'),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
