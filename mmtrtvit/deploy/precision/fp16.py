"""fp16 by casting in the graph.

The work is done by ``onnxruntime.transformers.float16.convert_float_to_float16``, told which nodes to leave alone
(:mod:`mmtrtvit.deploy.precision.islands`). What it leaves undone is done around it:

* a constant read on both sides of an island's border is cast for both, so that the island reads rounded numbers:
  every island gets copies of its own;
* between two nodes of an island it casts to fp16 and back: such pairs are removed, with copies of the same Cast;
* it clamps small weights to the smallest number of fp16 in the place of 0, and large ones to the largest: small
  ones are made 0 before, nodes with large ones stay fp32;
* it is blind to tensors that the body of a Loop reads from outside: they get their fp32 form back;
* the nodes it adds stand at the end, and types written down are stale: nodes are sorted, types inferred anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from mmtrtvit.deploy.exporter import quiet, scope_of
from mmtrtvit.deploy.precision import files
from mmtrtvit.deploy.precision.islands import SMALLEST, float32_nodes, in_scopes, touch_floats
from mmtrtvit.deploy.precision.ranges import Feed, Progress, largest_magnitudes
from mmtrtvit.deploy.precision.report import PrecisionError, PrecisionReport

PRODUCTS = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'Einsum', 'Attention')
#: Smallest scale of Q/DQ nodes in fp16: four of its bits are left, and TensorRT refuses a scale of 0.
SMALLEST_SCALE = 2.0**-20
_PRECISIONS: dict[int, str] = {TensorProto.FLOAT: 'fp32', TensorProto.FLOAT16: 'fp16'}


def to_fp16(
    onnx_in: str | Path,
    onnx_out: str | Path,
    *,
    keep: Iterable[str] = (),
    batches: Iterable[Feed] | None = None,
    progress: Progress = lambda phase, step, steps: None,
) -> PrecisionReport:
    """Cast an exported graph to fp16; inputs, outputs and the islands stay as they are.

    Args:
        onnx_in: A file of :func:`mmtrtvit.deploy.exporter.export`, also one quantised to int8.
        onnx_out: The file to make; it appears whole or not at all.
        keep: Names of nodes that are to stay fp32 beside those that must.
        batches: Images (input name -> array) on which activations are measured; nodes whose activations come near
            the end of fp16's range stay fp32. None: nothing is measured.
        progress: Called with the phase, the step and the number of steps, 0 where that is not known.

    Raises:
        PrecisionError: The file is not one of ours, or fp16 cannot hold it.
        OSError: The file cannot be written.
    """
    begin, source = time.perf_counter(), Path(onnx_in)
    model, scopes = files.read(source)
    model = files.normalize(model)
    names = {node.name for node in model.graph.node}
    unknown = sorted(set(keep := list(keep)) - names)
    if unknown:
        raise PrecisionError(f'{source}: keep={unknown[0]!r} is the name of no node')
    largest = None
    if batches is not None:
        largest = largest_magnitudes(source, batches, progress)
    reasons = float32_nodes(model, scopes, keep, largest)
    kept = touch_floats(model.graph, reasons)
    progress('Casting to fp16', 0, 1)
    model, flushed = cast(model, reasons)
    progress('Casting to fp16', 1, 1)
    digest = files.write(model, Path(onnx_out))
    return PrecisionReport(
        path=Path(onnx_out),
        sha256=digest,
        precision='fp16',
        products=count_products(model.graph, scopes),
        kept=kept,
        casts=sum(node.op_type == 'Cast' for node in model.graph.node),
        quantizers=sum(node.op_type == 'QuantizeLinear' for node in model.graph.node),
        flushed=sum(flushed.values()),
        nodes=len(model.graph.node),
        seconds=time.perf_counter() - begin,
    )


def cast(model: ModelProto, kept: Mapping[str, str]) -> tuple[ModelProto, dict[str, int]]:
    """Cast a normalised graph but for the nodes ``kept``; return it and how many small weights became 0."""
    graph = model.graph
    float_inside = _captured_floats(graph)
    _raise_scales(graph)
    _split_constants(graph, kept)
    flushed = _flush(graph, kept)
    with quiet():
        model = convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, op_block_list=[], node_block_list=list(kept)
        )
    graph = model.graph
    _merge_casts(graph)
    _restore_captured(graph, float_inside)
    files.sort_nodes(graph)
    model = files.infer(model)
    remove_cast_pairs(model.graph)
    files.drop_unused(model.graph)
    files.sort_nodes(model.graph)
    return files.infer(model), flushed


def _split_constants(graph: GraphProto, kept: Mapping[str, str]) -> None:
    """Give the kept nodes constants of their own."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    outside = {name for node in graph.node if node.name not in kept for name in node.input}
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.name not in kept:
            continue
        for name in files.reads(node):
            if name in tensors and name in outside and name not in copies:
                copies[name] = f'{name}_float32'
                copy = graph.initializer.add()
                copy.CopyFrom(tensors[name])
                copy.name = copies[name]
        node.input[:] = [copies.get(name, name) for name in node.input]
        files.rename_captured(node, copies)


def _raise_scales(graph: GraphProto) -> None:
    """Let no scale become 0; weights behind a raised one are quantised anew."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    done: dict[str, np.ndarray] = {}  # scale -> what its values were multiplied by
    for node in graph.node:
        if node.op_type not in ('QuantizeLinear', 'DequantizeLinear') or node.input[1] not in constants:
            continue
        scale = constants[node.input[1]]
        if scale.name not in done:
            values = files.array(scale)
            raised = np.maximum(values, np.float32(SMALLEST_SCALE))
            done[scale.name] = raised / values
            scale.CopyFrom(numpy_helper.from_array(raised, scale.name))
        factor, weight = done[scale.name], constants.get(node.input[0])
        if weight is not None and (factor > 1).any():
            axis = next((attribute.i for attribute in node.attribute if attribute.name == 'axis'), 1)
            integers = files.array(weight)
            if factor.ndim:
                factor = factor.reshape([-1 if d == axis % integers.ndim else 1 for d in range(integers.ndim)])
            weight.CopyFrom(numpy_helper.from_array(np.rint(integers / factor).astype(integers.dtype), weight.name))


def _flush(graph: GraphProto, kept: Mapping[str, str]) -> dict[str, int]:
    """Make weights 0 that fp16 rounds to 0."""
    cast_inputs = {name for node in graph.node if node.name not in kept for name in node.input}
    flushed = {}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in cast_inputs:
            continue
        values = files.array(tensor)
        small = (values != 0) & (np.abs(values) <= SMALLEST)
        if small.any():
            flushed[tensor.name] = int(small.sum())
            tensor.CopyFrom(numpy_helper.from_array(np.where(small, np.float32(0), values), tensor.name))
    return flushed


def _captured_floats(graph: GraphProto) -> set[str]:
    types = files.types_of(graph)
    names = {name for node in graph.node for name in files.captured(node)}
    return {name for name in names if types.get(name) == TensorProto.FLOAT}


def _merge_casts(graph: GraphProto) -> None:
    """One Cast for one tensor and type; the converter adds one a reader, all of one name."""
    nodes: list[NodeProto] = []
    made: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        if node.op_type == 'Cast' and node.output[0] in made:
            assert made[node.output[0]] == (node.input[0], _target(node)), node.name
            continue
        if node.op_type == 'Cast':
            made[node.output[0]] = (node.input[0], _target(node))
        nodes.append(node)
    files.replace_nodes(graph, nodes)


def _restore_captured(graph: GraphProto, names: Iterable[str]) -> None:
    """Let bodies of loops read the fp32 form of tensors that became fp16."""
    constants = {tensor.name for tensor in graph.initializer}
    renamed = {}
    for name in names:
        if name in constants:
            continue  # split: still fp32
        renamed[name] = f'{name}_cast_to_fp32'
        if not any(renamed[name] in node.output for node in graph.node):
            graph.node.append(
                helper.make_node('Cast', [name], [renamed[name]], f'{name}_captured', to=TensorProto.FLOAT)
            )
    for node in graph.node:
        files.rename_captured(node, renamed)


def remove_cast_pairs(graph: GraphProto) -> None:
    """Remove Casts to the type that is there, those there and back, and copies of one Cast.

    fp16 -> fp32 -> fp16 is exact either way; fp32 -> fp16 -> fp32 rounds, which is what an island must not do.
    """
    types = files.types_of(graph)
    casts = {node.output[0]: node for node in graph.node if node.op_type == 'Cast'}
    outputs = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    first: dict[tuple[str, int], str] = {}
    for node in graph.node:
        if node.op_type != 'Cast':
            continue
        name = origin = node.input[0]
        if name in casts and types.get(name) in files.FLOATS and types.get(casts[name].input[0]) in files.FLOATS:
            origin = casts[name].input[0]
        origin = instead.get(origin, origin)
        if types.get(origin) == _target(node):
            instead[node.output[0]] = origin
            continue
        node.input[0] = instead.get(name, name)
        key = (node.input[0], _target(node))
        if key in first and node.output[0] not in outputs:
            instead[node.output[0]] = first[key]
        else:
            first.setdefault(key, node.output[0])
    _redirect(graph, instead, outputs)


def _redirect(graph: GraphProto, instead: dict[str, str], outputs: set[str]) -> None:
    """Read ``instead[name]`` in the place of ``name``; an output of the graph keeps its name."""
    constants = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    final: dict[str, str] = {}
    for name, origin in instead.items():
        if name in outputs and origin not in outputs and origin not in constants and origin not in final:
            final[origin] = name  # the maker of the origin takes the output's name
    nodes: list[NodeProto] = []
    names = {name: final.get(origin, origin) for name, origin in instead.items()} | final
    for node in graph.node:
        gone = node.op_type == 'Cast' and node.output[0] in instead
        if gone and (node.output[0] not in outputs or names[node.output[0]] == node.output[0]):
            continue
        if gone:  # two outputs of one tensor, or an input handed through
            node = helper.make_node('Identity', [instead[node.output[0]]], [node.output[0]], node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [final.get(name, name) for name in node.output]
        files.rename_captured(node, names)
        nodes.append(node)
    files.replace_nodes(graph, nodes)


def _target(node: NodeProto) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == 'to')


def count_products(graph: GraphProto, scopes: Iterable[str]) -> dict[str, int]:
    """Precision -> how many convolutions and matrix products outside the islands compute in it."""
    scopes = list(scopes)
    types = files.types_of(graph)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in PRODUCTS and not in_scopes(scope_of(node), scopes):
            quantized = makers.get(node.input[0]) == 'DequantizeLinear'
            counts['int8' if quantized else _PRECISIONS.get(types.get(node.output[0], 0), 'other')] += 1
    return dict(counts)
