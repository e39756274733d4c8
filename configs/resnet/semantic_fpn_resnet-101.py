_base_ = ['../semantic_fpn_trtvit.py', '../_base_/backbones/resnet-101.py']
model = dict(backbone=dict(_base_.peer, norm_cfg=dict(type='SyncBN')), neck=dict(in_channels=_base_.peer_channels))
