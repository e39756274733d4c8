_base_ = ['../retinanet_trtvit.py', '../_base_/backbones/pvtv2-b2.py']
model = dict(backbone=_base_.peer, neck=dict(in_channels=_base_.peer_channels))
