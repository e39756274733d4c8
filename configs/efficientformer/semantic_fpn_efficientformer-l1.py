_base_ = ['../semantic_fpn_trtvit.py', '../_base_/backbones/efficientformer-l1.py']
model = dict(backbone=_base_.peer, neck=dict(in_channels=_base_.peer_channels))
