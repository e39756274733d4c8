"""Exported graphs in ONNX Runtime against the library's own ``predict``, and what is in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from mmtrtvit.deploy.exporter import nodes_of, scope_of
from mmtrtvit.deploy.ops.nms import NMSOptions
from tests.test_deploy import models
from tests.test_deploy.conftest import Exported
from tests.test_deploy.test_graphs.common import DETECTORS, NEEDED, SEGMENTORS, UNCLIPPED, assert_parity, feed, images
from tests.test_deploy.test_graphs.test_detectors import (
    AGNOSTIC,
    MASK_80,
    NOTHING,
    PER_CLASS_CASCADE,
    SOFTMAX_LOSS,
    TRTVIT_BACKBONE,
    TWINS_BACKBONE,
    TWO_STAGES,
)

Make = Callable[..., Exported]
CANVAS = dict(height=96, width=128)
SWIN_BACKBONE = {
    'backbone': dict(
        _delete_=True, type='mmpretrain.SwinTransformer', img_size=96, pad_small_map=True, out_indices=(0, 1, 2, 3),
        arch=dict(embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 2, 4]),
    ),
}  # fmt: skip

# name of the case -> model, changes, options of graph and export
QUICK: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    'mask-rcnn': ('mask-rcnn', {}, dict(CANVAS, batch_size=2)),
    'semantic-fpn, dynamic batch': ('semantic-fpn', {}, dict(CANVAS, dynamic_batch=True)),
    'vit-classifier, dynamic batch': ('vit-classifier', {}, dict(height=64, width=64, dynamic_batch=True)),
}  # fmt: skip
LONG: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    'retinanet, uint8, portrait': (
        'retinanet', {}, dict(height=128, width=96, batch_size=2, image_dtype='uint8')),
    **{name: (name, {}, dict(CANVAS, batch_size=2, **NEEDED.get(name, {})))
       for name in (*DETECTORS, *SEGMENTORS) if name != 'mask-rcnn'},
    **{f'{name}, batch of 1': (name, {}, CANVAS) for name in ('retinanet', 'mask-rcnn', 'cascade-mask-rcnn')},
    **{f'{name}, dynamic batch': (name, {}, dict(CANVAS, dynamic_batch=True))
       for name in ('retinanet', 'atss', 'mask-rcnn', 'cascade-mask-rcnn', 'dino', 'upernet')},
    **{f'{name}, {form}': (name, {}, dict(CANVAS, batch_size=2, nms=NMSOptions(form=form)))
       for name in ('retinanet', 'mask-rcnn') for form in ('loop', 'onnx')},
    'retinanet, onnx, dynamic batch': (
        'retinanet', {}, dict(CANVAS, dynamic_batch=True, nms=NMSOptions(form='onnx'))),
    'logits': ('fcn', {}, dict(CANVAS, batch_size=2, segmentation_output='logits')),
    'vfnet, own nodes': ('vfnet', {}, dict(CANVAS, nms=NMSOptions(form='onnx'), deform_conv='onnx')),
    'queries of the encoder': ('deformable-detr', TWO_STAGES, dict(CANVAS, batch_size=2)),
    'mask-rcnn, own nodes': (
        'mask-rcnn', {}, dict(CANVAS, batch_size=2, roi_align='onnx', nms=NMSOptions(form='onnx'))),
    'mask-rcnn, uint8, portrait': ('mask-rcnn', {}, dict(height=128, width=96, image_dtype='uint8')),
    'mask-rcnn, 80 classes': ('mask-rcnn', MASK_80, dict(CANVAS, batch_size=2)),
    'mask-rcnn, few rows': ('mask-rcnn', {}, dict(CANVAS, max_dets=7)),
    'mask-rcnn, class-agnostic': (
        'mask-rcnn', {**AGNOSTIC, 'roi_head.mask_head.class_agnostic': True}, dict(CANVAS, batch_size=2)),
    'mask-rcnn, no detection': ('mask-rcnn', NOTHING['mask-rcnn'], dict(CANVAS, batch_size=2)),
    'faster-rcnn, softmax proposals': ('faster-rcnn', {'rpn_head.loss_cls': SOFTMAX_LOSS}, CANVAS),
    'cascade, boxes a class': ('cascade-rcnn', PER_CLASS_CASCADE, dict(CANVAS, batch_size=2)),
    'odd canvas': ('mask-rcnn', {}, dict(height=83, width=117)),
    'TRT-ViT': ('mask-rcnn', TRTVIT_BACKBONE, dict(CANVAS, batch_size=2)),
    'TRT-ViT, odd canvas': ('retinanet', TRTVIT_BACKBONE, dict(height=83, width=117)),
    'TRT-ViT, dynamic batch': ('retinanet', TRTVIT_BACKBONE, dict(CANVAS, dynamic_batch=True)),
    'Twins': ('mask-rcnn', TWINS_BACKBONE, dict(CANVAS, batch_size=2)),
    'Twins, dynamic batch': ('retinanet', TWINS_BACKBONE, dict(CANVAS, dynamic_batch=True)),
    'Swin': ('retinanet', SWIN_BACKBONE, dict(CANVAS, batch_size=2)),
}  # fmt: skip
CASES = QUICK | LONG


def params(chosen: Any = tuple(CASES)) -> list[Any]:
    return [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in chosen]


def made(exported: Make, case: str) -> Exported:
    name, changes, options = CASES[case]
    return exported(name, changes, **options)


@pytest.mark.parametrize('case', params())
def test_parity_in_onnx_runtime(case: str, exported: Make) -> None:
    it = made(exported, case)
    for batch in (1, 2, 3) if 'dynamic' in case else (it.graph.options.batch_size,):
        pictures = images(batch, *it.graph.options.shape)
        found = it.run(feed(it.graph, it.model, pictures))
        assert_parity(it.model, it.graph, found, pictures, clipped=CASES[case][0] not in UNCLIPPED)
        if 'exact' in found:
            assert found['exact'].all()
        assert ('num_dets' not in found) or bool(found['num_dets'].any()) == ('no detection' not in case)


@pytest.mark.parametrize('case', params())
def test_what_is_in_the_file(case: str, exported: Make) -> None:
    it = made(exported, case)
    onnx.checker.check_model(str(it.report.path), full_check=True)
    counts = Counter(node.op_type for node in nodes_of(it.proto.graph))
    assert counts == it.report.operators
    assert sum(counts.values()) == it.report.nodes < it.report.nodes_exported
    assert {node.domain for node in nodes_of(it.proto.graph)} <= {'', 'ai.onnx'}
    assert [(entry.domain, entry.version) for entry in it.proto.opset_import] == [('', it.report.opset)]
    assert not it.proto.functions
    options = it.graph.options
    for operator in ('NonZero', 'Unique', 'Compress', 'NonMaxSuppression', 'RoiAlign', 'DeformConv', 'Loop', 'If'):
        allowed = {
            'NonMaxSuppression': options.nms.form == 'onnx',
            'RoiAlign': options.roi_align == 'onnx',
            'DeformConv': options.deform_conv == 'onnx',
            'Loop': options.nms.form == 'loop',
        }
        assert bool(counts[operator]) == (allowed.get(operator, False) and it.graph.max_dets > 0), operator


@pytest.mark.parametrize('case', params())
def test_shapes_and_names_are_the_contract(case: str, exported: Make) -> None:
    it = made(exported, case)
    dynamic = 'dynamic' in case
    (image,) = it.proto.graph.input
    assert image.name == 'image'
    expected = ('batch' if dynamic else it.graph.input_shape[0], *it.graph.input_shape[1:])
    assert sizes(image) == expected
    assert [value.name for value in it.proto.graph.output] == list(it.graph.output_names)
    for value in it.proto.graph.output:
        shape = sizes(value)
        assert shape[0] == expected[0]
        assert all(isinstance(size, int) for size in shape[1:])
    if dynamic or it.graph.options.nms.form != 'static':
        return
    inferred = onnx.shape_inference.infer_shapes(it.proto, strict_mode=True, data_prop=True)
    unknown = [
        value.name for value in inferred.graph.value_info if not all(isinstance(size, int) for size in sizes(value))
    ]
    assert unknown == []


@pytest.mark.parametrize('case', params([
    'vit-classifier, dynamic batch', 'Twins', 'Twins, dynamic batch', 'Swin', 'TRT-ViT',
]))  # fmt: skip
def test_a_layer_norm_is_one_node(case: str, exported: Make) -> None:
    """Taken apart, its variance overflows in fp16."""
    it = made(exported, case)
    run: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, module in it.graph.named_modules()
        if isinstance(module, nn.LayerNorm)
    ]
    with torch.no_grad():
        it.graph(it.graph.example_input())
    for hook in hooks:
        hook.remove()
    unread = ['backbone.norm0'] if case == 'Swin' else []  # RetinaNet's neck reads from the second level on
    assert it.report.operators.get('LayerNormalization', 0) == len(run) - len(unread)
    assert set(unread) < set(run)
    assert len(run) > 4


@pytest.mark.parametrize('case', params(['mask-rcnn', 'retinanet, uint8, portrait', 'semantic-fpn, dynamic batch']))
def test_the_file_says_what_stays_float32(case: str, exported: Make) -> None:
    it = made(exported, case)
    meta = {entry.key: entry.value for entry in it.proto.metadata_props}
    options = json.loads(meta['mmtrtvit.options'])
    assert options['task'] == it.graph.task
    assert options['image_dtype'] == it.graph.options.image_dtype
    scopes = json.loads(meta['mmtrtvit.float32_scopes'])
    assert scopes == it.graph.float32_scopes()
    assert 'normalize' in scopes
    found = Counter(scope.split('.')[0] for scope in map(scope_of, nodes_of(it.proto.graph)))
    assert found['backbone'] > 20
    if 'rcnn' in case:
        assert {'proposals', 'roi_head.select', 'roi_head.mask.select.0'} <= set(scopes)
        assert found['proposals'] > 50


def sizes(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        size.dim_value if size.HasField('dim_value') else size.dim_param for size in value.type.tensor_type.shape.dim
    )


def test_quick_models_are_small() -> None:
    """What makes the tests of exported graphs quick is that only these run always."""
    assert len(QUICK) == 3
    assert sum(parameter.numel() for parameter in models.build('mask-rcnn').parameters()) < 300_000
