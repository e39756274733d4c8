"""Reading a graph for a precision pass, bringing it into one form, and writing the result checked and whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from mmtrtvit.deploy.exporter import FLOAT32_SCOPES
from mmtrtvit.deploy.precision.report import PrecisionError
from mmtrtvit.fileio import atomic_path

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def read(path: Path) -> tuple[ModelProto, list[str]]:
    """Load an exported graph and the module paths that must stay float32.

    Raises:
        PrecisionError: The file cannot be read, or was not written by :func:`mmtrtvit.deploy.exporter.export`.
    """
    if not path.is_file():
        raise PrecisionError(f'{path}: no such file: export the model first')
    try:
        model = onnx.load(str(path), format='protobuf')
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PrecisionError(f'{path}: not a whole ONNX model: {first}: export the model again') from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if FLOAT32_SCOPES not in metadata:
        raise PrecisionError(
            f'{path}: its metadata has no {FLOAT32_SCOPES}, the list of the parts whose coordinates and scores must '
            'stay float32: cast the file that mmtrtvit exported, before other tools rewrite it'
        )
    try:
        scopes = json.loads(metadata[FLOAT32_SCOPES])
    except ValueError as error:
        raise PrecisionError(f'{path}: {FLOAT32_SCOPES} in its metadata is no JSON: export the model again') from error
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise PrecisionError(f'{path}: {FLOAT32_SCOPES} in its metadata is no list of texts: export the model again')
    return model, scopes


def normalize(model: ModelProto) -> ModelProto:
    """Constants as initializers, a name for every node, a type for every tensor."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.output, *node.input)} | {i.name for i in graph.initializer}
    names: set[str] = set()
    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type == 'Constant' and node.attribute[0].name == 'value':
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            continue
        if not node.name or node.name in names:
            node.name = f'{node.op_type}_{number}'
            while node.name in names or node.name in taken:
                node.name += '_'
        names.add(node.name)
        nodes.append(node)
    replace_nodes(graph, nodes)
    return infer(model)


def infer(model: ModelProto) -> ModelProto:
    """Write the shape and type of every tensor anew."""
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def types_of(graph: GraphProto) -> dict[str, int]:
    """Tensor name -> its ONNX type, as far as written down."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.HasField('tensor_type'):
            found[value.name] = value.type.tensor_type.elem_type
    return found


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The bodies of a Loop, the branches of an If."""
    return [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node]


def captured(node: NodeProto) -> set[str]:
    """Tensors of the outer graph that a node's subgraphs read."""
    found: set[str] = set()
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read_inside = {name for inner in graph.node for name in (*inner.input, *captured(inner)) if name}
        found |= (read_inside | {value.name for value in graph.output}) - own
    return found


def rename_captured(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node's subgraphs read other tensors of the outer graph."""
    for graph in subgraphs(node):
        own = {name for inner in graph.node for name in inner.output} | {value.name for value in graph.input}
        mine = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            inner.input[:] = [mine.get(name, name) for name in inner.input]
            rename_captured(inner, mine)


def reads(node: NodeProto) -> Iterator[str]:
    """Tensors that a node reads, those of its subgraphs included."""
    yield from (name for name in node.input if name)
    yield from captured(node)


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Put other nodes in the place of a graph's."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def sort_nodes(graph: GraphProto) -> None:
    """Put every node behind those it reads, otherwise in the given order."""
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output}
    order: list[int] = []
    done: set[int] = set()
    for first in range(len(graph.node)):
        stack = [first]
        while stack:
            number = stack[-1]
            waiting = [makers[n] for n in reads(graph.node[number]) if n in makers and makers[n] not in done]
            if number in done or not waiting:
                stack.pop()
                if number not in done:
                    done.add(number)
                    order.append(number)
            else:
                stack.extend(waiting)
    replace_nodes(graph, [graph.node[number] for number in order])


def drop_unused(graph: GraphProto) -> None:
    """Remove nodes and initializers that nothing reads."""
    wanted = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(reads(node))
            nodes.append(node)
    replace_nodes(graph, nodes[::-1])
    kept = [tensor for tensor in graph.initializer if tensor.name in wanted]
    if len(kept) < len(graph.initializer):
        kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def array(tensor: TensorProto) -> np.ndarray:
    """An initializer's values."""
    return numpy_helper.to_array(tensor)


def write(model: ModelProto, path: Path) -> str:
    """Check a graph fully and write it whole or not at all; return its sha256.

    Raises:
        PrecisionError: The checker refuses it.
        OSError: It cannot be written.
    """
    with atomic_path(path) as partial:
        onnx.save(model, str(partial))
        try:
            onnx.checker.check_model(str(partial), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PrecisionError(f'{path}: the graph that was made is not valid: {error}') from error
        return hashlib.sha256(partial.read_bytes()).hexdigest()
