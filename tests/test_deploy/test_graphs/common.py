"""What the tests of the graphs ask of every graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mmtrtvit.deploy.graphs import DeployGraph, GraphOptions, build_graph
from mmtrtvit.deploy.parity import TOLERANCES, Parity, compare, library_outputs
from tests.test_deploy import models

DETECTORS = ('retinanet', 'retinanet-sepbn', 'freeanchor', 'yolof', 'atss', 'ddod', 'fcos', 'autoassign', 'vfnet',
             'gfl', 'rtmdet', 'yolox', 'faster-rcnn', 'mask-rcnn', 'cascade-rcnn', 'cascade-mask-rcnn',
             'detr', 'conditional-detr', 'dab-detr', 'deformable-detr', 'dino')  # fmt: skip
#: What the library itself does not clip to the canvas.
UNCLIPPED = ('yolox',)
#: Options of the graph that a model needs.
NEEDED: dict[str, dict[str, Any]] = {'yolox': dict(max_dets=20)}  # it reads no max_per_img
SEGMENTORS = ('upernet', 'semantic-fpn', 'fcn', 'psp', 'aspp', 'binary', 'ocr')
CLASSIFIERS = ('resnet-classifier', 'vit-classifier')
HEIGHT, WIDTH = 96, 128


def graph_of(model: Any, height: int = HEIGHT, width: int = WIDTH, **options: Any) -> DeployGraph:
    options = {**NEEDED.get(type(model).__name__.lower(), {}), **options}
    return build_graph(copy.deepcopy(model), GraphOptions(height=height, width=width, **options))


def images(count: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Generated scenes, the last image of several random bytes: ``(count, H, W, 3)`` uint8."""
    if count == 1:
        return models.pictures(1, height, width, first=4)
    return torch.cat([models.pictures(count - 1, height, width, first=4), models.noise(1, height, width)])


def eager(graph: DeployGraph, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip(graph.output_names, graph(image), strict=True))


def feed(graph: DeployGraph, model: Any, pictures: Tensor) -> Tensor:
    """The graph's input for images of ``cv2.imread``."""
    return pictures if graph.options.image_dtype == 'uint8' else models.normalized(model, pictures)


def assert_parity(
    model: Any, graph: DeployGraph, found: dict[str, Tensor], pictures: Tensor, clipped: bool = True
) -> Parity:
    """The graph's outputs are the library's own, every one of them, and the contract is kept."""
    reference = library_outputs(model, graph, models.normalized(model, pictures))
    verdict = compare(reference, found, TOLERANCES['fp32'])
    assert verdict.passed, verdict
    assert verdict.unmatched == ()
    if 'boxes' in found:
        assert_detection_contract(graph, found, len(pictures), clipped)
        assert found['num_dets'].tolist() == reference['num_dets'].tolist()
    return verdict


def assert_detection_contract(graph: DeployGraph, found: dict[str, Tensor], batch: int, clipped: bool = True) -> None:
    """Names, types, shapes and padding, as docs/deployment.md states them."""
    rows, size = graph.max_dets, graph.mask_size
    height, width = graph.options.shape
    expected = {
        'boxes': (torch.float32, (batch, rows, 4)),
        'scores': (torch.float32, (batch, rows)),
        'labels': (torch.int64, (batch, rows)),
        'num_dets': (torch.int64, (batch,)),
        'exact': (torch.bool, (batch,)),
        **({'masks': (torch.float32, (batch, rows, size, size))} if size else {}),
    }
    assert {name: (value.dtype, tuple(value.shape)) for name, value in found.items()} == expected
    real = torch.arange(rows) < found['num_dets'][:, None]
    assert (found['boxes'][~real] == 0).all()
    assert (found['scores'][~real] == 0).all()
    assert (found['labels'][~real] == -1).all()
    assert (found['labels'][real] >= 0).all()
    assert (found['scores'][:, :-1] >= found['scores'][:, 1:]).all()
    boxes = found['boxes']
    inside = (boxes >= 0).all() and (boxes[..., 0::2] <= width).all() and (boxes[..., 1::2] <= height).all()
    assert inside == clipped
    if size:
        assert (found['masks'][~real] == 0).all()
        assert ((found['masks'] >= 0) & (found['masks'] <= 1)).all()
