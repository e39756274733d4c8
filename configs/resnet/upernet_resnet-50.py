_base_ = ['../upernet_trtvit.py', '../_base_/backbones/resnet-50.py']
model = dict(
    backbone=dict(_base_.peer, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(in_channels=_base_.peer_channels),
    auxiliary_head=dict(in_channels=_base_.peer_channels[2]),
)
