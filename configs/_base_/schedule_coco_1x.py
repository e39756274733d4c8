# COCO 1x for backbones with Transformer blocks, as Next-ViT trains (arXiv 2207.05501): 12 epochs, AdamW 1e-4,
# 16 images a batch, steps at 8 and 11, 500 iterations of warm-up (mmdet's own 1x has the last two).
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
