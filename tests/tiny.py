"""The smallest data sets and configs on which the tools can be tried, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

#: A detector of a few thousand parameters on images of 64 pixels.
DETECTOR = """
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmtrtvit'], allow_failed_imports=False)
data_root = {root!r}
classes = dict(classes=('a', 'b'))
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
                  norm_cfg=dict(type='BN'), style='pytorch'),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(num_classes=2, in_channels=16, stacked_convs=1, feat_channels=16),
    test_cfg=dict(max_per_img=10),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='CocoDataset', metainfo=classes, data_root=data_root, ann_file='instances.json',
               data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True), batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'instances.json', metric='bbox')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)]
default_hooks = dict(logger=dict(interval=1))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""


def make_coco(root: Path, images: int = 6, seed: int = 0) -> Path:
    """Images of 64 x 48 or 48 x 64 pixels with filled boxes of two classes, in COCO's layout; the first has none."""
    rng = np.random.default_rng(seed)
    (root / 'images').mkdir(parents=True)
    entries, annotations = [], []
    for number in range(images):
        width, height = (64, 48) if number % 3 else (48, 64)
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(0 if number == 0 else 2):
            x, y = (int(v) for v in rng.integers(0, 24, 2))
            w, h = (int(v) for v in rng.integers(12, 22, 2))
            category = int(rng.integers(1, 3))
            image[y : y + h, x : x + w] = (250, 40, 40) if category == 1 else (40, 250, 40)
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number + 1, category_id=category, iscrowd=0,
                     bbox=[x, y, w, h], area=w * h, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
            )  # fmt: skip
        name = f'{number:04d}.png'
        cv2.imwrite(str(root / 'images' / name), image)
        entries.append({'id': number + 1, 'file_name': name, 'width': width, 'height': height})
    categories = [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}]
    document = {'images': entries, 'annotations': annotations, 'categories': categories}
    (root / 'instances.json').write_text(json.dumps(document))
    return root


def make_detector(folder: Path, images: int = 6) -> Path:
    """A data set and ``detector.py``, the config that trains on it; returns the config."""
    root = make_coco(folder / 'data', images)
    config = folder / 'detector.py'
    config.write_text(DETECTOR.format(root=f'{root}/'))
    return config


#: A segmentor of a few thousand parameters, by iterations, on images of 32 pixels.
SEGMENTOR = """
_base_ = ['mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmtrtvit'], allow_failed_imports=False)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.] * 3, std=[255.] * 3, size=(32, 32), seg_pad_val=255),
    backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN'), style='pytorch'),
    decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, concat_input=False, num_classes=3,
                     dropout_ratio=0.5, loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'),
)
dataset = dict(type='BaseSegDataset', data_root={root!r}, img_suffix='.png', seg_map_suffix='.png',
               metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [9, 9, 9], [99, 9, 9]]),
               data_prefix=dict(img_path='images', seg_map_path='masks'))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomFlip', prob=0.5),
                  dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, num_workers=1, persistent_workers=True,
                        sampler=dict(type='InfiniteSampler', shuffle=True),
                        dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001))
param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=6, by_epoch=False)]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='mIoU'),
                     logger=dict(type='LoggerHook', interval=1))
"""

#: A classifier of a few thousand parameters on the same images, sorted into folders.
CLASSIFIER = """
_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmtrtvit'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier', backbone=dict(type='ResNet', depth=18, base_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64, topk=(1,), loss=dict(type='CrossEntropyLoss')),
    data_preprocessor=dict(mean=[0.] * 3, std=[255.] * 3, num_classes=3),
)
dataset = dict(type='CustomDataset', data_root={root!r}, data_prefix='classes',
               pipeline=[dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
                        collate_fn=dict(type='default_collate'), dataset=dataset)
val_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.001))
"""


def make_segmentor(folder: Path, images: int = 4) -> Path:
    """Images of 32 x 32 pixels with masks of three classes, and ``segmentor.py``; returns the config."""
    rng = np.random.default_rng(0)
    root = folder / 'data'
    (root / 'images').mkdir(parents=True)
    (root / 'masks').mkdir()
    for number in range(images):
        mask = rng.integers(0, 3, (4, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        cv2.imwrite(str(root / 'images' / f'{number}.png'), cv2.cvtColor(mask * 100, cv2.COLOR_GRAY2BGR))
        cv2.imwrite(str(root / 'masks' / f'{number}.png'), mask)
    config = folder / 'segmentor.py'
    config.write_text(SEGMENTOR.format(root=f'{root}/'))
    return config


def make_classifier(folder: Path, images: int = 6) -> Path:
    """Images of 32 x 32 pixels in three folders, and ``classifier.py``; returns the config."""
    root = folder / 'data'
    for number in range(images):
        file = root / 'classes' / f'class{number % 3}' / f'{number}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((32, 32, 3), 80 * (number % 3) + number, dtype=np.uint8))
    config = folder / 'classifier.py'
    config.write_text(CLASSIFIER.format(root=str(root)))
    return config
