# UperNet with TRT-ViT-C (our reconstruction) on ADE20K: AdamW 6e-5, 160k iterations of 16 crops of 512x512.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    '_base_/runtime.py',
    '_base_/backbones/trtvit-c.py',
]
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_base_.backbone, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(in_channels=_base_.channels, num_classes=150),
    auxiliary_head=dict(in_channels=_base_.channels[2], num_classes=150),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
# ADE20K's usual 16 crops a step are 4 GPUs x mmseg's 4; --auto-scale-lr adapts to other numbers
auto_scale_lr = dict(enable=False, base_batch_size=16)
