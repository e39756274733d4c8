"""The same functions as ONNX graphs: what is in them, what ONNX Runtime makes of them, and TensorRT-RTX takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmtrtvit.deploy.ops import (
    NMSOptions,
    decode_deltas,
    decode_distances,
    greedy_keep,
    roi_align_pyramid,
    select_class_masks,
    select_detections,
    top_k_classes,
)
from tests.test_deploy.test_ops.crowds import KINDS, chain, make_boxes
from tests.test_deploy.test_ops.graphs import Graph
from tests.test_deploy.test_ops.test_roi_align import NASTY, STRIDES, pyramid, random_rois

COUNT, CLASSES = 60, 5


def both_uses_of_nms(form: str) -> Callable[..., tuple[Tensor, ...]]:
    """Detections by class, as at the end of a detector, and boxes kept level by level, as in an RPN."""
    options = NMSOptions(form=form, pre_top_k=40, rounds=6)

    def function(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        found = select_detections(
            boxes,
            scores,
            labels,
            score_threshold=0.1,
            iou_threshold=0.5,
            max_dets=20,
            options=options,
            min_size=0.0,
            num_classes=CLASSES,
        )
        return (*found, *greedy_keep(boxes, scores > 0.2, 1 / 3, labels, options))

    return function


def nms_inputs(first: str, second: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    boxes = torch.stack((make_boxes(first, COUNT, seed), make_boxes(second, COUNT, seed + 1)))
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, COUNT, generator=random)
    if seed % 2:
        scores = (scores * 5).round() / 5
    return boxes, scores, torch.randint(0, CLASSES, (2, COUNT), generator=random)


def assert_runs_as_eager(graph: Graph, *inputs: Tensor, tolerance: float = 0.0) -> None:
    for found, expected in zip(graph(*inputs), graph.function(*inputs), strict=True):
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=tolerance)


@pytest.fixture(scope='module', params=['static', 'loop', 'onnx'])
def nms_graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    file = tmp_path_factory.mktemp('nms') / f'{request.param}.onnx'
    graph = Graph(both_uses_of_nms(request.param), nms_inputs('random', 'random', 0), file)
    graph.form = request.param
    return graph


def test_nms_runs_as_eager(nms_graph: Graph) -> None:
    for seed, kind in enumerate(KINDS):
        assert_runs_as_eager(nms_graph, *nms_inputs(kind, 'mixed', seed))
    boxes, scores, labels = nms_inputs('random', 'random', 0)
    assert_runs_as_eager(nms_graph, boxes, torch.zeros_like(scores), labels)  # no candidates
    one_chain = torch.stack((chain(COUNT), chain(COUNT)))
    together = torch.stack((torch.linspace(1, 0.3, COUNT), torch.ones(COUNT)))
    assert_runs_as_eager(nms_graph, one_chain, together, torch.zeros_like(labels))
    exact = nms_graph(one_chain, together, torch.zeros_like(labels))[4]
    assert exact.tolist() == [nms_graph.form != 'static'] * 2


def test_nms_graph_has_what_its_form_says(nms_graph: Graph) -> None:
    types = nms_graph.node_types()
    if nms_graph.form == 'onnx':
        assert 'NonMaxSuppression' in types
        assert not [name for name in types if '::' in name]
        outputs = [[dim.dim_value for dim in out.type.tensor_type.shape.dim] for out in nms_graph.model.graph.output]
        assert outputs == [[2, 20, 4], [2, 20], [2, 20], [2], [2], [2, 20], [2, 60], [2]]
    else:
        nms_graph.assert_default()
        assert ('Loop' in types) == (nms_graph.form == 'loop')


def test_nms_compiles_with_tensorrt_rtx(nms_graph: Graph) -> None:
    if nms_graph.form == 'onnx':
        pytest.skip('TensorRT-RTX has no NonMaxSuppression')
    assert nms_graph.compile_rtx() > 0


def test_roi_align(tmp_path: Path) -> None:
    def function(p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor) -> tuple[Tensor, ...]:
        return (roi_align_pyramid((p2, p3, p4, p5), rois, STRIDES, (5, 3), 2),)

    features = pyramid()
    graph = Graph(function, (*features, NASTY.expand(2, -1, 4).contiguous()), tmp_path / 'roi.onnx')
    graph.assert_default()
    assert_runs_as_eager(graph, *features, NASTY.expand(2, -1, 4).contiguous(), tolerance=1e-5)
    rois = torch.stack([random_rois(len(NASTY), seed) for seed in range(2)])
    assert_runs_as_eager(graph, *features, rois, tolerance=1e-5)
    assert graph.compile_rtx() > 0


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_of_onnx(aligned: bool, tmp_path: Path) -> None:
    def function(p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor) -> tuple[Tensor, ...]:
        features = (p2, p3, p4, p5)
        fixed = roi_align_pyramid(features, rois, STRIDES, (5, 3), 2, aligned=aligned, form='onnx')
        return fixed, roi_align_pyramid(features, rois, STRIDES, (5, 3), 0, aligned=aligned, form='onnx')

    features = pyramid()
    # without the RoI of 2e6 pixels, of which adaptive sampling would take 10 ** 9 samples
    rois = torch.cat((NASTY[:7], NASTY[9:], random_rois(30, 0).clamp(-300, 900))).expand(2, -1, 4).contiguous()
    graph = Graph(function, (*features, rois), tmp_path / 'roi.onnx')
    assert 'RoiAlign' in graph.node_types()
    assert graph.dynamic_outputs() == []
    assert_runs_as_eager(graph, *features, rois, tolerance=1e-4)


def test_decoding_and_choosing(tmp_path: Path) -> None:
    anchors = torch.rand(30, 4) * 50 + torch.tensor([0.0, 0, 60, 60])

    def function(deltas: Tensor, distances: Tensor, scores: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        values, anchor, label = top_k_classes(scores, 12)
        masks = select_class_masks(logits, label[:, : logits.shape[1]])
        boxes = decode_deltas(anchors, deltas, max_shape=(90, 100))
        return values, anchor, label, masks, boxes, decode_distances(anchors[:, :2], distances, (90, 100))

    inputs = (
        torch.randn(2, 30, 4),
        torch.rand(2, 30, 4) * 60,
        torch.randint(0, 4, (2, 30, 7)).float(),
        torch.randn(2, 6, 7, 8, 8),
    )
    graph = Graph(function, inputs, tmp_path / 'boxes.onnx')
    graph.assert_default()
    assert_runs_as_eager(graph, *inputs, tolerance=1e-4)
    assert graph.compile_rtx() > 0


@pytest.mark.slow
def test_a_dynamic_batch(tmp_path: Path) -> None:
    def function(boxes: Tensor, scores: Tensor, labels: Tensor, p2: Tensor, p3: Tensor) -> tuple[Tensor, ...]:
        found = both_uses_of_nms('static')(boxes, scores, labels)
        return (*found, roi_align_pyramid((p2, p3), found[0], STRIDES[:2], 3, 2))

    graph = Graph(function, (*nms_inputs('grid', 'random', 0), *pyramid(2, levels=2)), tmp_path / 'batch.onnx', True)
    for batch in (1, 2, 5):
        boxes, scores, labels = (torch.cat([x] * 3)[:batch] for x in nms_inputs('mixed', 'grid', batch))
        assert_runs_as_eager(graph, boxes, scores, labels, *pyramid(batch, levels=2), tolerance=1e-5)
