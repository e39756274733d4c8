"""Which nodes stay float32 in an fp16 graph, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from mmtrtvit.deploy.exporter import scope_of
from mmtrtvit.deploy.precision.files import FLOATS, array, captured, subgraphs, types_of

#: The largest finite number of fp16 (IEEE 754 binary16).
LARGEST = 65504.0
#: Half of the smallest positive one: what is smaller rounds to 0.
SMALLEST = 2.0**-25
#: An activation measured at a quarter of the largest number leaves room for images that were not measured.
HEADROOM = 4.0

REASONS = {
    'scope': 'of a module derived from Float32Island: coordinates, scores, their decoding, sorting and suppression',
    'coordinates': 'leads to the sampling points of a GridSample or RoiAlign, or samples there: on a canvas of 1000 '
    'pixels fp16 steps by half a pixel, and TensorRT takes image and points of one type only',
    'scores': 'makes what an island sorts, at little cost (a matrix product or 1 x 1 convolution and what follows): '
    'scores rounded to equal ones are sorted by place, and neighbours in a row suppress each other in chains that are '
    'longer than NMS has rounds',
    'operator': 'sums, squares or exponentials, which leave the range of fp16 or lose the sum; sorting',
    'range': 'reads or makes a number that fp16 does not have',
    'subgraph': 'holds a graph of its own',
    'asked': 'named by the caller',
}

PRODUCTS = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')
#: Operators that order their input.
_SORTERS = ('TopK', 'NonMaxSuppression')
#: Sampling operators and their input of points.
SAMPLERS = {'GridSample': 1, 'RoiAlign': 1}
#: Operators through which coordinates are not followed: what is before them is the network's own.
_HEAVY = frozenset({
    'Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'Einsum', 'Attention', 'LayerNormalization', 'InstanceNormalization',
    'GroupNormalization', 'BatchNormalization', 'Softmax', 'Resize', 'GridSample', 'RoiAlign', 'AveragePool', 'MaxPool',
    'GlobalAveragePool', 'GlobalMaxPool', 'Gelu', 'Relu',
})  # fmt: skip
#: Their results outgrow fp16 or their sums lose it. LayerNormalization, InstanceNormalization, Softmax and the
#: poolings are not here: the backends keep the statistics of the one node in fp32.
_OPERATORS = frozenset({
    'TopK', 'NonMaxSuppression', 'RoiAlign', 'CumSum', 'Range', 'Exp', 'Log', 'Pow', 'Reciprocal', 'Softplus',
    'ReduceMean', 'ReduceSum', 'ReduceSumSquare', 'ReduceProd', 'ReduceL1', 'ReduceL2', 'ReduceLogSum',
    'ReduceLogSumExp', 'LpNormalization', 'MeanVarianceNormalization',
})  # fmt: skip


def float32_nodes(
    model: ModelProto,
    scopes: Iterable[str],
    keep: Iterable[str] = (),
    largest: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Choose the nodes that stay float32.

    Args:
        model: Normalised (see :func:`mmtrtvit.deploy.precision.files.normalize`).
        scopes: Module paths whose nodes stay.
        keep: Names of more nodes.
        largest: Tensor -> the largest magnitude measured in it.

    Returns:
        Node name -> the reason, a key of :data:`REASONS`.
    """
    graph = model.graph
    scopes, keep = list(scopes), set(keep)
    kept = {node.name: 'scope' for node in graph.node if in_scopes(scope_of(node), scopes)}
    _nameless(graph, kept)
    for node in graph.node:
        if subgraphs(node):
            kept.setdefault(node.name, 'subgraph')
    for name in _coordinates(graph, kept):
        kept.setdefault(name, 'coordinates')
    for name in _scores(graph, kept, scopes):
        kept.setdefault(name, 'scores')
    for node in graph.node:
        if node.op_type in _OPERATORS:
            kept.setdefault(node.name, 'operator')
        if node.name in keep:
            kept.setdefault(node.name, 'asked')
    outside = {tensor.name for tensor in graph.initializer if _outside(tensor)}
    outside |= {name for name, value in (largest or {}).items() if value > LARGEST / HEADROOM}
    for node in graph.node:
        if outside.intersection((*node.input, *node.output)):
            kept.setdefault(node.name, 'range')
    return kept


def in_scopes(scope: str, scopes: Iterable[str]) -> bool:
    """Whether a module path is one of ``scopes`` or below one."""
    return any(scope == one or scope.startswith(one + '.') for one in scopes)


def touch_floats(graph: GraphProto, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Reason -> those of the nodes that read or make floating numbers."""
    types = types_of(graph)
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.name in names and any(types.get(name) in FLOATS for name in (*node.input, *node.output)):
            found.setdefault(names[node.name], []).append(node.name)
    return {reason: tuple(nodes) for reason, nodes in found.items()}


def neighbours(graph: GraphProto) -> tuple[dict[str, NodeProto], dict[str, list[NodeProto]]]:
    """Tensor -> the node that makes it; tensor -> the nodes that read it."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in {*node.input, *captured(node)}:
            readers.setdefault(name, []).append(node)
    return makers, readers


def _nameless(graph: GraphProto, kept: dict[str, str]) -> None:
    """Nodes that an optimiser made carry no scope: beside an island they are part of it."""
    makers, readers = neighbours(graph)
    nameless = [node for node in graph.node if not scope_of(node)]
    grown = True
    while grown:
        grown = False
        for node in nameless:
            beside = [makers[name] for name in node.input if name in makers]
            beside += [reader for name in node.output for reader in readers.get(name, ())]
            if node.name not in kept and any(other.name in kept for other in beside):
                kept[node.name] = 'scope'
                grown = True


def _coordinates(graph: GraphProto, kept: Mapping[str, str]) -> list[str]:
    """The samplers and what computes their points, back to islands and to the network's own operators."""
    samplers = [node for node in graph.node if node.op_type in SAMPLERS]
    points = [node.input[SAMPLERS[node.op_type]] for node in samplers]
    return [node.name for node in samplers] + [
        node.name for node in _before(graph, kept, points) if node.op_type not in _HEAVY
    ]


def _scores(graph: GraphProto, kept: Mapping[str, str], scopes: Iterable[str]) -> list[str]:
    """What leads from the last cheap products into islands that sort."""
    sorting = [
        scope
        for scope in scopes
        if any(node.op_type in _SORTERS and in_scopes(scope_of(node), [scope]) for node in graph.node)
    ]
    entries = [name for node in graph.node if in_scopes(scope_of(node), sorting) for name in node.input]
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    found = []
    for node in _before(graph, kept, entries):
        cheap = (
            node.op_type in PRODUCTS and node.input[1] in weights and max(weights[node.input[1]][2:], default=1) == 1
        )
        if cheap or node.op_type not in _HEAVY:
            found.append(node.name)
    return found


def _before(graph: GraphProto, kept: Mapping[str, str], tensors: Iterable[str]) -> list[NodeProto]:
    """Nodes that lead to some tensors, back to kept ones and, included, to the network's own operators."""
    makers, _ = neighbours(graph)
    found: dict[str, NodeProto] = {}
    stack = list(tensors)
    while stack:
        node = makers.get(stack.pop())
        if node is None or node.name in kept or node.name in found:
            continue
        found[node.name] = node
        if node.op_type not in _HEAVY:
            stack.extend(node.input)
    return list(found.values())


def last_products(graph: GraphProto, islands: Mapping[str, str]) -> set[str]:
    """Products with none between them and an island of :data:`REASONS` ``scope`` or an output of the graph."""
    leads = {value.name: True for value in graph.output}
    last = set()
    for node in reversed(graph.node):
        reaches = any(leads.get(name, False) for name in node.output)
        product = node.op_type in PRODUCTS and islands.get(node.name) not in ('scope', 'coordinates')
        if product and reaches:
            last.add(node.name)
        for name in node.input:
            into = islands.get(node.name) == 'scope' or (reaches and not product)
            leads[name] = leads.get(name, False) or into
    return last


def _outside(tensor: TensorProto) -> bool:
    """Whether fp16 cannot hold a constant: too large, or a scalar that would become 0."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(array(tensor))
    values = values[np.isfinite(values)]
    if not values.size:
        return False
    return bool(values.max() > LARGEST or (values.size == 1 and 0 < values[0] <= SMALLEST))
