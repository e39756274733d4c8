# RetinaNet with TRT-ViT-C (our reconstruction) on COCO, 1x.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedule_coco_1x.py',
    '_base_/runtime.py',
    '_base_/backbones/trtvit-c.py',
]
model = dict(
    backbone=dict(_base_.backbone, frozen_stages=1, norm_eval=True),
    neck=dict(in_channels=_base_.channels),
)
