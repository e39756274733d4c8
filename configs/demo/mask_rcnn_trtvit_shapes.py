# The demo: Mask R-CNN with TRT-ViT-A on the generated shapes, from random weights, in minutes on two CPU cores.
# Against configs/trtvit/mask_rcnn_trtvit-a.py: small images, light heads, no frozen layers, its own schedule.
_base_ = '../trtvit/mask_rcnn_trtvit-a.py'
data_root = 'data/shapes/'
metainfo = dict(
    classes=('circle', 'triangle', 'square', 'star', 'ring', 'cross', 'crescent', 'arrow'),
    palette=[
        (220, 20, 60),
        (255, 158, 0),
        (250, 235, 40),
        (60, 180, 75),
        (0, 190, 200),
        (40, 90, 255),
        (145, 60, 220),
        (240, 60, 200),
    ],
)
num_classes = 8
image_size = (192, 192)

model = dict(
    backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False, drop_path_rate=0.0),
    neck=dict(out_channels=96),
    rpn_head=dict(in_channels=96, feat_channels=96, anchor_generator=dict(scales=[6])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96),
        mask_roi_extractor=dict(out_channels=96),
        bbox_head=dict(in_channels=96, fc_out_channels=256, num_classes=num_classes),
        mask_head=dict(num_convs=2, in_channels=96, conv_out_channels=96, num_classes=num_classes),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=50)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        pipeline=train_pipeline,
        filter_cfg=dict(filter_empty_gt=True, min_size=8),
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=3, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=3, T_max=3, eta_min=1e-6, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
