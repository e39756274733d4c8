"""pycocotools, mmdet and mmseg read the generated set as they read COCO and ADE20K."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmtrtvit.compat.config_scope import CONFIG_ROOT, config_path
from mmtrtvit.datasets import CLASSES, METAINFO, PALETTE
from mmtrtvit.datasets.writer import ADE_FOLDERS, COCO_FOLDERS
from tests.test_datasets.conftest import SMALL

SPLITS = ('train', 'val')
COUNTS = {'train': SMALL.train, 'val': SMALL.val}


@pytest.fixture(params=SPLITS)
def split(request) -> str:
    return request.param


def load_coco(root: Path, split: str) -> COCO:
    return COCO(str(root / f'annotations/instances_{COCO_FOLDERS[split]}.json'))


def load_semantic(root: Path, split: str, file_name: str) -> np.ndarray:
    path = root / 'annotations' / ADE_FOLDERS[split] / Path(file_name).with_suffix('.png')
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_pycocotools_reads_it(shapes_root, split):
    coco = load_coco(shapes_root, split)
    assert len(coco.getImgIds()) == COUNTS[split]
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert coco.getCatIds() == list(range(1, 9))
    assert len(coco.anns) == len(coco.dataset['annotations'])  # ids are unique
    assert set(coco.dataset) == {'info', 'licenses', 'images', 'annotations', 'categories'}
    assert {image['license'] for image in coco.imgs.values()} <= {entry['id'] for entry in coco.dataset['licenses']}
    occurring = {entry['category_id'] for entry in coco.anns.values() if not entry['iscrowd']}
    assert occurring == set(coco.getCatIds())
    assert sum(not coco.getAnnIds(imgIds=[i]) for i in coco.getImgIds()) == COUNTS[split] // 10
    crowds = [entry for entry in coco.anns.values() if entry['iscrowd']]
    assert len(crowds) == len(range(4, COUNTS[split], 20)) > 0
    assert all(isinstance(entry['segmentation']['counts'], list) for entry in crowds)
    for image in coco.imgs.values():
        picture = cv2.imread(str(shapes_root / COCO_FOLDERS[split] / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)


def test_areas_boxes_and_semantic_masks_agree_with_the_instances(shapes_root, split):
    coco = load_coco(shapes_root, split)
    for image in coco.imgs.values():
        labels = np.zeros((image['height'], image['width']), dtype=np.uint8)
        for entry in coco.loadAnns(coco.getAnnIds(imgIds=[image['id']])):
            mask = coco.annToMask(entry).astype(bool)
            runs = coco.annToRLE(entry)
            assert entry['area'] == mask.sum() == mask_utils.area(runs)
            assert entry['bbox'] == mask_utils.toBbox(runs).tolist()
            assert not labels[mask].any()  # visible parts do not overlap
            labels[mask] = entry['category_id']
        assert np.array_equal(labels, load_semantic(shapes_root, split, image['file_name']))


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ground_truth_as_detections_scores_one(shapes_root, split, kind):
    coco = load_coco(shapes_root, split)
    detections = []
    for entry in coco.anns.values():
        if not entry['iscrowd']:
            found = {'image_id': entry['image_id'], 'category_id': entry['category_id'], 'score': 0.9}
            found |= {'bbox': entry['bbox']} if kind == 'bbox' else {'segmentation': coco.annToRLE(entry)}
            detections.append(found)
    assert average_precision(coco, detections, kind) == pytest.approx(1.0, abs=1e-12)
    wrong = [{**found, 'category_id': found['category_id'] % 8 + 1} for found in detections]
    assert average_precision(coco, wrong, kind) < 0.05


def average_precision(coco: COCO, detections: list[dict[str, Any]], kind: str) -> float:
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def build(scope: str, config: dict[str, Any]) -> Any:
    from mmengine.registry import DATASETS

    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build({**config, '_scope_': scope})


def coco_dataset(root: Path, split: str, pipeline: list[dict[str, Any]], **options: Any) -> Any:
    import mmdet.datasets  # noqa: F401  registers

    return build(
        'mmdet',
        dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'annotations/instances_{COCO_FOLDERS[split]}.json',
            data_prefix=dict(img=f'{COCO_FOLDERS[split]}/'),
            metainfo=METAINFO,
            pipeline=pipeline,
            **options,
        ),
    )


def test_mmdet_train_pipeline_reads_every_image(shapes_root, split):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(192, 192), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    dataset = coco_dataset(shapes_root, split, pipeline, filter_cfg=dict(filter_empty_gt=True, min_size=8))
    # mmdet drops images without objects from training
    assert len(dataset) == COUNTS[split] - COUNTS[split] // 10
    ignored = 0
    for sample in dataset:
        instances = sample['data_samples'].gt_instances
        assert len(instances) == len(instances.masks) >= 1
        assert (instances.labels < 8).all()
        assert sample['inputs'].shape[1:] == sample['data_samples'].img_shape
        assert all(mask.any() for mask in instances.masks.masks)
        ignored += len(sample['data_samples'].ignored_instances)
        boxes = instances.bboxes.tensor.numpy()
        extents = instances.masks.get_bboxes('hbox').tensor.numpy()
        assert np.abs(boxes - extents).max() <= 2.5  # resized by 1.5: a pixel and a half, rounded
    assert ignored == len(range(4, COUNTS[split], 20))  # the crowd regions


def test_mmdet_keeps_empty_images_for_testing(shapes_root, split):
    dataset = coco_dataset(shapes_root, split, [], test_mode=True)
    assert len(dataset) == COUNTS[split]
    assert [index for index in range(len(dataset)) if not dataset.get_data_info(index)['instances']] == list(
        range(9, COUNTS[split], 10)
    )


def test_ground_truth_scores_one_in_mmdets_metric(shapes_root):
    from mmdet.evaluation import CocoMetric

    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape')),
    ]
    dataset = coco_dataset(shapes_root, 'val', pipeline, test_mode=True)
    metric = CocoMetric(str(shapes_root / 'annotations/instances_val2017.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for sample in dataset:
        data = sample['data_samples']
        truth = data.gt_instances
        found = {
            'bboxes': truth.bboxes.tensor,
            'labels': truth.labels,
            'scores': truth.labels * 0 + 0.9,
            'masks': truth.masks.to_tensor(bool, 'cpu'),
        }
        metric.process({}, [{**data.to_dict(), 'pred_instances': found}])
    scores = metric.evaluate(size=len(dataset))
    assert scores['coco/bbox_mAP'] == 1.0
    assert scores['coco/segm_mAP'] == 1.0


@pytest.mark.parametrize('kind', ['BaseSegDataset', 'ADE20KDataset'])
def test_mmseg_reads_every_image(shapes_root, split, kind):
    import mmseg.datasets  # noqa: F401  registers

    folder = ADE_FOLDERS[split]
    config = dict(
        type=kind,
        data_root=str(shapes_root),
        data_prefix=dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}'),
        reduce_zero_label=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    if kind == 'BaseSegDataset':
        config['metainfo'] = METAINFO
    dataset = build('mmseg', config)
    assert len(dataset) == COUNTS[split]
    seen: set[int] = set()
    for sample in dataset:
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        assert labels.shape == sample['inputs'].shape[1:]
        stored = load_semantic(shapes_root, split, Path(sample['data_samples'].img_path).name).astype(int)
        assert np.array_equal(labels, np.where(stored == 0, 255, stored - 1))
        seen |= set(np.unique(labels).tolist())
    assert seen == {*range(8), 255}


def shapes_configs() -> list[str]:
    return sorted(f'demo/{path.name}' for path in (CONFIG_ROOT / 'demo').glob('*_shapes.py'))


@pytest.mark.parametrize('name', shapes_configs())
def test_configs_name_the_classes_as_they_are(name):
    """A config cannot import the class list, so it repeats it."""
    cfg = Config.fromfile(str(config_path(name)))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        metainfo = loader.dataset.metainfo
        assert tuple(metainfo['classes']) == CLASSES
        if 'palette' in metainfo:
            assert [tuple(colour) for colour in metainfo['palette']] == PALETTE


def test_there_is_a_config_to_compare():
    assert shapes_configs()


def test_manifest_lists_every_file(shapes_root):
    manifest = json.loads((shapes_root / 'shapes.json').read_text())
    on_disk = {p.relative_to(shapes_root).as_posix() for p in shapes_root.rglob('*') if p.is_file()}
    assert set(manifest['files']) == on_disk - {'shapes.json'}
    assert manifest['parameters'] == {'seed': 3, 'train': 40, 'val': 24, 'size': 128}
