# The demo's data and budget with another backbone, from random weights as well.
_base_ = ['./mask_rcnn_trtvit_shapes.py', '../_base_/backbones/twins-svt-s.py']
model = dict(backbone=dict(_base_.peer, init_cfg=None, drop_path_rate=0.0), neck=dict(in_channels=_base_.peer_channels))
