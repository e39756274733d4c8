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
    # RetinaNet starts at stride 8: a stride-4 output, with a norm of its own in some peers, would stay without gradient
    backbone=dict(_base_.backbone, frozen_stages=1, norm_eval=True, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:], start_level=0),
)
