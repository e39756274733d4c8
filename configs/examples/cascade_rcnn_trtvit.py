# Your own project: an mmdet config inherited, TRT-ViT swapped in by three lines, a fourth for deployment. All else,
# the schedule with SGD too, stays mmdet's; configs/mask_rcnn_trtvit.py has the recipe with AdamW and a frozen stem.
_base_ = ['mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'mmtrtvit::_base_/backbones/trtvit-c.py']
custom_imports = dict(imports=['mmtrtvit'], allow_failed_imports=False)
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
# a fixed number of samples, as an engine needs
model['roi_head'] = dict(bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)))
