_base_ = ['../mask_rcnn_trtvit.py', '../_base_/resnetv1d-101.py']
model = dict(backbone=dict(arch='d', init_cfg=dict(checkpoint=_base_.checkpoint)))
