"""Which part of a detector a layer belongs to, from the module that it was exported from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from mmtrtvit.deploy.backends import LayerCost
from mmtrtvit.deploy.exporter import scope_of

__all__ = ['AFTER_HEADS', 'PARTS', 'breakdown', 'part_of', 'scopes_of']

#: Beginning of a module path in a deployable graph (``mmtrtvit/deploy/graphs``) and its part; the first that fits.
RULES = (
    ('backbone', 'backbone'),
    ('neck', 'neck'),
    ('roi_head.box_features', 'RoIAlign'),
    ('roi_head.mask.features', 'RoIAlign'),
    ('roi_head.mask.heads', 'mask head'),
    ('roi_head.mask', 'masks'),
    ('roi_head.bbox_head', 'heads'),
    ('roi_head.select', 'NMS'),
    ('roi_head.refine', 'NMS'),
    ('proposals', 'NMS'),
    ('detections', 'NMS'),
    ('rpn_head', 'heads'),
    ('decode_heads', 'heads'),
    ('head', 'heads'),
    ('resize', 'output'),
    ('probabilities', 'output'),
)
#: In the order of a detector's work. ``NMS`` is box decoding, top-k and suppression, of proposals and of detections;
#: ``masks`` the choice of each detection's class and the sigmoid; ``output`` a segmentor's resizing and argmax or a
#: classifier's softmax; ``other`` what belongs to no module, such as changes of the memory's layout.
PARTS = ('backbone', 'neck', 'heads', 'NMS', 'RoIAlign', 'mask head', 'masks', 'output', 'other')
#: What is left when the convolutions and matrix products are done.
AFTER_HEADS = ('NMS', 'RoIAlign', 'masks', 'output')


def part_of(scope: str) -> str:
    """Return the part of :data:`PARTS` that a module path belongs to."""
    for begin, part in RULES:
        if scope == begin or scope.startswith(f'{begin}.'):
            return part
    return 'other'


def scopes_of(path: Path) -> dict[str, str]:
    """Return the module path of each node of a graph, by the node's name and by those of its outputs."""
    found: dict[str, str] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        for name in (node.name, *node.output):
            found.setdefault(name, scope_of(node))
    return found


def breakdown(costs: Iterable[LayerCost], scopes: Mapping[str, str]) -> dict[str, float]:
    """Sum layers by part.

    Args:
        costs: Of an engine, from its profiler.
        scopes: From :func:`scopes_of`; for PyTorch, whose layers are modules, an empty one: their names are paths.

    Returns:
        Part to ms of one run, in the order of :data:`PARTS`, without parts that the model does not have.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    for cost in costs:
        spent[part_of(_scope(cost.name, scopes))] += cost.milliseconds
    return {part: milliseconds for part, milliseconds in spent.items() if milliseconds}


def _scope(layer: str, scopes: Mapping[str, str]) -> str:
    """Find the module path of a layer, whose name a backend may have made from those of nodes or tensors.

    ONNX Runtime calls a convolution in its blocked layout ``<tensor>_nchwc`` and fused nodes ``fused <node>`` or
    ``<node>/MatMulAddFusion``; TensorRT joins what it has fused as ``<node> + <node>`` or names the ends,
    ``{ForeignNode[<node>...<node>]}``.
    """
    if not scopes:
        return layer.removeprefix('graph.')  # of the module that holds the graph in fp16
    for name in (layer, layer.removesuffix('_nchwc')):
        if name in scopes:
            return scopes[name]
    for word in re.findall(r'[\w.:]+', layer.replace('...', ' ')):
        for name in (word, word.removesuffix('_nchwc')):
            if name in scopes:
                return scopes[name]
    return ''
