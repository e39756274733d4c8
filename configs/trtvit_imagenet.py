# TRT-ViT-C (our reconstruction) on ImageNet-1k: Swin's recipe, 300 epochs, 1024 images a batch. Not yet trained.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
    '_base_/runtime.py',
    '_base_/backbones/trtvit-c.py',
]
model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,), init_cfg=None),
    head=dict(in_channels=_base_.channels[-1]),
    init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0)],
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=20),
]
