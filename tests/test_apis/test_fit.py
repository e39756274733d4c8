"""Parts of a model, its data and its evaluation that do not fit each other, and those that do although they differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmtrtvit.apis import errors, preflight
from mmtrtvit.apis import train as train_api
from mmtrtvit.apis.classes import check_classes, check_topk
from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.errors import UserError
from mmtrtvit.models import TRTViT
from tests.test_apis.common import Tool, edit
from tests.tiny import make_classifier, make_segmentor

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize(('options', 'expected'), [
    (['model.bbox_head.num_classes=3'],
     r'^model\.bbox_head\.num_classes=3, but the data set CocoDataset has 2 classes \(a, b\): set both alike'),
    (['model.neck.in_channels=[8,16,32,65]'],
     r'^FPN: it gets another number of channels than it was made for: set its in_channels .* 65 channels, but got 64'),
    (['model.bbox_head.anchor_generator=None'], r"^RetinaHead cannot be built as .*got <class 'NoneType'>"),
    (['model.train_cfg=None'], '^RetinaHead: a setting that it needs is not in its config'),
    (['model.backbone.out_indices=[0,1,2]'],
     r'^FPN: its config does not fit what it gets \[assert len\(inputs\) == len\(self\.in_channels\)\]'),
    (['randomness.seed=-5'], r'^randomness\.seed must be from 0 to 4294967295'),
])  # fmt: skip
def test_parts_of_a_detector_that_do_not_fit(config: str, fail: Tool, options: list[str], expected: str) -> None:
    message = fail(train_api.main, config, '--cfg-options', *options)
    assert re.search(expected, message), message


@pytest.mark.parametrize(('make', 'options', 'expected'), [
    (make_segmentor, ['model.decode_head.num_classes=2'], r'^model\.decode_head\.num_classes=2, but .* 3 classes'),
    (make_segmentor, ['model.test_cfg.mode=slide'], r"model\.test_cfg\.mode='slide' needs crop_size and"),
    pytest.param(make_segmentor, ['model.decode_head.num_classes=4', 'model.decode_head.ignore_index=9',
                                  'train_dataloader.dataset.reduce_zero_label=True'],
                 r'^CrossEntropyLoss: the data has a label .*Target 255', marks=pytest.mark.slow),
    pytest.param(make_segmentor, ['model.decode_head.in_index=9'],
                 '^FCNHead: it asks for a feature map .* look at in_index', marks=pytest.mark.slow),
    (make_segmentor, ['model.decode_head.in_index=[0,9]'],
     r'^FCNHead: its config does not fit what it gets \[assert isinstance\(in_index, int\)\]'),
    (make_segmentor, ['model.decode_head.channels=0'], '^FCNHead: it is of no channels at all'),
    pytest.param(make_segmentor, ['model.test_cfg=None'],
                 '^EncoderDecoder: a setting that it needs is not in its config', marks=pytest.mark.slow),
    (make_classifier, ['model.head=None'], '^ImageClassifier: a setting that it needs is not in its config'),
    (make_classifier, ['model.head.num_classes=2'], r'^model\.head\.num_classes=2, but .* CustomDataset has 3'),
    (make_classifier, ['model.head.in_channels=63'], '^LinearClsHead: it gets another number of channels'),
    (make_classifier, ['val_evaluator.topk=1,5'], r'^val_evaluator\.topk=\(1, 5\): the model has 3 classes'),
])  # fmt: skip
def test_parts_of_others_that_do_not_fit(
    make: Any, options: list[str], expected: str, tmp_path: Path, fail: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = fail(train_api.main, make(tmp_path).name, '--cfg-options', *options)
    assert re.search(expected, message), message


@pytest.mark.parametrize(('change', 'expected'), [
    (lambda d: d['annotations'][1].pop('iscrowd'), r'annotations\[1\] has no iscrowd, 1 of \d+ have none: 1 for'),
    (lambda d: d['annotations'][0].pop('area'), r'annotations\[0\] has no area'),
    (lambda d: d['annotations'][0].pop('bbox'), r'annotations\[0\] has no bbox, .*: \[x, y, width, height\]'),
    (lambda d: [entry.pop('id') for entry in d['annotations']], r'annotations\[0\] has no id, (\d+) of \1 have none'),
    (lambda d: d['images'][0].pop('height'), r'images\[0\] has no height'),
    (lambda d: d.update(categories={'1': 'a'}), 'categories is a dict; COCO has a list .* id, name$'),
    (lambda d: d['annotations'].append(3), r'annotations\[\d+\] is a int, not an object'),
])  # fmt: skip
def test_annotations_that_lack_what_is_read(
    config: str, tmp_path: Path, fail: Tool, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    edit(tmp_path, change)
    message = fail(train_api.main, config)
    assert re.search(expected, message), message
    judged_only = 'iscrowd' in expected  # training takes an absent one for 0
    assert f'instances.json ({"val" if judged_only else "train"}_dataloader)' in message


def test_masks_are_wanted_only_where_they_are_read(config: str, tmp_path: Path, fail: Tool) -> None:
    edit(tmp_path, lambda document: [entry.pop('segmentation', None) for entry in document['annotations']])
    cfg = train_api.prepare(train_api.parse_args([config]))
    preflight.check_data(cfg, ('train', 'val'))
    cfg.val_evaluator.metric = ['bbox', 'segm']
    with pytest.raises(UserError, match=r'annotations\[0\] has no segmentation, .*without them take a config without'):
        preflight.check_data(cfg, ('train', 'val'))


COCO_80 = tuple(f'class {number}' for number in range(80))
#: Shipped configs whose heads have other numbers than their data sets have names, and why.
DIFFERING = {
    'mmdet::rpn/rpn_r50_fpn_1x_coco': (COCO_80, 'proposals are of one class'),
    'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco': ((*COCO_80, *'abc' * 20), 'things and stuff are counted apart'),
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024': (COCO_80[:19], 'an auxiliary head finds edges'),
}


@pytest.mark.parametrize('name', DIFFERING)
def test_models_whose_classes_are_others(name: str) -> None:
    cfg = load_config(name)
    init_default_scope(cfg.default_scope)
    for part in ('backbone', 'pretrained', 'init_cfg'):
        if isinstance(cfg.model.get(part), dict):
            cfg.model[part].pop('init_cfg', None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    check_classes(model, SimpleNamespace(metainfo={'classes': DIFFERING[name][0]}))


@pytest.mark.parametrize('metainfo', [None, {}, {'classes': 'name'}, [{'classes': ('a',)}, {'classes': ('b', 'c')}]])
def test_data_sets_that_do_not_tell_their_classes(metainfo: Any) -> None:
    head = torch.nn.Module()
    head.num_classes = 9  # type: ignore[assignment]  # as heads have it
    model = torch.nn.ModuleDict({'bbox_head': head})
    model.bbox_head = head
    check_classes(model, SimpleNamespace(metainfo=metainfo))
    with pytest.raises(UserError, match=r'model\.bbox_head\.num_classes=9, but .* SimpleNamespace has 2 classes'):
        check_classes(model, SimpleNamespace(metainfo={'classes': ('a', 'b')}))


def test_one_channel_tells_two_classes_apart() -> None:
    model = torch.nn.Module()
    model.decode_head = torch.nn.Module()
    model.decode_head.num_classes, model.decode_head.out_channels = 1, 1  # type: ignore[assignment]  # as mmseg's
    check_classes(model, SimpleNamespace(metainfo={'classes': ('a', 'b')}))


def test_only_accuracies_are_of_classes() -> None:
    model = torch.nn.Module()
    model.head = torch.nn.Module()
    model.head.num_classes = 4  # type: ignore[assignment]  # as heads have it
    other = type('RetrievalRecall', (), {'topk': (1, 5, 10)})()
    check_topk(model, SimpleNamespace(metrics=[other, type('Accuracy', (), {'topk': (1, 4)})()]))
    with pytest.raises(UserError, match=r'topk=\(1, 5\): the model has 4 classes'):
        check_topk(model, SimpleNamespace(metrics=[type('Accuracy', (), {'topk': (1, 5)})()]))


def test_images_without_labels(config: str, tmp_path: Path) -> None:
    """Those of COCO's test set have no annotations: they are predicted for, or learnt from without labels."""
    edit(tmp_path, lambda document: document.pop('annotations'))
    cfg = train_api.prepare(train_api.parse_args([config]))
    cfg.test_evaluator.format_only = True
    preflight.check_data(cfg, ('test',))
    with pytest.raises(UserError, match=r'\(val_dataloader\) has no annotations'):
        preflight.check_data(cfg, ('val',))
    with pytest.raises(UserError, match=r'\(train_dataloader\) has no annotations'):
        preflight.check_data(cfg, ('train',))
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    preflight.check_data(cfg, ('train',))


@pytest.mark.parametrize(('text', 'expected'), [
    ('Expected more than 1 value per channel when training, got input size [1, 8, 1, 1]', r'batch_size to 2 or more'),
    ("'ConfigDict' object has no attribute 'modules'", None),
    ('selected index k out of range', None),
])  # fmt: skip
def test_what_is_said_of_an_error_within_a_model(text: str, expected: str | None) -> None:
    """Only where a part of a library was at work is a setting that is missing the user's."""
    said = errors.explain(RuntimeError(text))
    assert said is None if expected is None else re.search(expected, str(said))


def test_a_function_of_a_library_is_within_it() -> None:
    from mmdet.models.losses import L1Loss

    with pytest.raises(AssertionError) as caught:
        L1Loss()(torch.zeros(2, 4), torch.zeros(3, 4))  # the bare assertion stands in a function beside the class
    said = str(errors.explain(caught.value))
    assert said.startswith('L1Loss: its config does not fit what it gets [assert pred.size() == target.size()]')
    assert errors.explain(AssertionError()) is None  # never raised: it has no line


def test_our_own_backbone_is_named() -> None:
    model = TRTViT(arch='a', in_channels=4)
    with pytest.raises(RuntimeError) as caught:
        model(torch.zeros(1, 3, 32, 32))
    said = str(errors.explain(caught.value))
    assert re.match(r'\w+: it gets another number of channels .* set its in_channels', said)
