# Mask R-CNN with TRT-ViT-C (our reconstruction) on COCO, 1x.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedule_coco_1x.py',
    '_base_/runtime.py',
    '_base_/backbones/trtvit-c.py',
]
model = dict(
    backbone=dict(_base_.backbone, frozen_stages=1, norm_eval=True),
    neck=dict(in_channels=_base_.channels),
    # a fixed number of samples: mmdet's adaptive 0 has no static form in an engine
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)),
    ),
)
