# Semantic FPN with TRT-ViT-C (our reconstruction) on ADE20K: AdamW 1e-4, 80k iterations of 16 crops of 512x512.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    '_base_/runtime.py',
    '_base_/backbones/trtvit-c.py',
]
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_base_.backbone, norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=_base_.channels),
    decode_head=dict(num_classes=150),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=80000, by_epoch=False)]
# ADE20K's usual 16 crops a step are 4 GPUs x mmseg's 4; --auto-scale-lr adapts to other numbers
auto_scale_lr = dict(enable=False, base_batch_size=16)
