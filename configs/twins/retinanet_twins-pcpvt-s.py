_base_ = ['../retinanet_trtvit.py', '../_base_/backbones/twins-pcpvt-s.py']
model = dict(backbone=_base_.peer, neck=dict(in_channels=_base_.peer_channels))
