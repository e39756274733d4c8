"""Reading an ONNX file: is it one, is it whole, what goes in and out, and in which precision does it compute."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from mmtrtvit.deploy.backends.types import BackendError, TensorSpec

__all__ = ['GraphFacts', 'load_model', 'read_graph', 'write_model']

_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: 'float32',
    onnx.TensorProto.FLOAT16: 'float16',
    onnx.TensorProto.BFLOAT16: 'bfloat16',
    onnx.TensorProto.DOUBLE: 'float64',
    onnx.TensorProto.UINT8: 'uint8',
    onnx.TensorProto.INT8: 'int8',
    onnx.TensorProto.INT32: 'int32',
    onnx.TensorProto.INT64: 'int64',
    onnx.TensorProto.BOOL: 'bool',
}
_PRECISIONS = {'float32': 'fp32', 'float16': 'fp16', 'bfloat16': 'bf16', 'float64': 'fp64'}

#: Metadata of a file: the module paths that stay float32, as JSON; of a node: the paths that it comes from.
FLOAT32_SCOPES = 'mmtrtvit.float32_scopes'
_NAME_SCOPES = 'pkg.torch.onnx.name_scopes'

#: Nodes that hold the multiplications; their precision is the graph's.
PRODUCTS = frozenset({'Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'Einsum', 'Attention'})
#: Nodes that compute nothing: they store, move, reshape or convert.
_NO_WORK = frozenset({
    'Constant', 'ConstantOfShape', 'Shape', 'Size', 'Reshape', 'Transpose', 'Flatten', 'Squeeze', 'Unsqueeze',
    'Slice', 'Split', 'Concat', 'Gather', 'GatherElements', 'GatherND', 'Expand', 'Tile', 'Identity', 'Cast',
    'QuantizeLinear', 'DequantizeLinear', 'Pad', 'Range',
})  # fmt: skip


@dataclass(frozen=True)
class GraphFacts:
    """What an ONNX file says about itself.

    Attributes:
        inputs: Graph inputs.
        outputs: Graph outputs.
        opset: Version of the default operator set.
        nodes: Number of nodes, subgraphs included.
        nodes_by_type: How many of each operator.
        products: Precision -> number of convolutions and matrix products in it.
        floats: Precision -> number of nodes that compute floating numbers in it, products included.
        by_design: Names of products that the exporter marked as float32 whatever is asked for, such as the rounds of
            NMS: they are no part of ``products``.
        external: Whether the weights lie in other files beside it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    nodes: int
    nodes_by_type: dict[str, int]
    products: dict[str, int]
    floats: dict[str, int]
    by_design: frozenset[str]
    external: bool


def read_graph(path: Path) -> GraphFacts:
    """Read and check an ONNX file.

    Args:
        path: The file.

    Returns:
        What is in it.

    Raises:
        BackendError: There is no such file, or it is no whole ONNX model; says what is wrong and what to do.
    """
    model = load_model(path)
    types = _types(_inferred(model))
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    kinds: Counter[str] = Counter()
    products: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    by_design = _by_design(model)
    for node in _nodes(model.graph):
        kinds[node.op_type] += 1
        precision = _precision(node, types, makers)
        if precision and node.op_type not in _NO_WORK:
            floats[precision] += 1
            products[precision] += node.op_type in PRODUCTS and node.name not in by_design
    weights = {tensor.name for tensor in model.graph.initializer}
    return GraphFacts(
        inputs=tuple(_spec(value, path) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_spec(value, path) for value in model.graph.output),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ('', 'ai.onnx')), 0),
        nodes=sum(kinds.values()),
        nodes_by_type=dict(kinds.most_common()),
        products={key: count for key, count in products.items() if count},
        floats=dict(floats),
        by_design=by_design,
        external=any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer),
    )


def _by_design(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the products in module paths that the file's metadata lists as float32."""
    listed = next((entry.value for entry in model.metadata_props if entry.key == FLOAT32_SCOPES), '[]')
    try:
        scopes = tuple(str(scope) for scope in json.loads(listed))
    except ValueError:
        return frozenset()
    found = set()
    for node in _nodes(model.graph):
        if node.op_type not in PRODUCTS:
            continue
        paths = next((entry.value for entry in node.metadata_props if entry.key == _NAME_SCOPES), '')
        if any(f"'{scope}'" in paths or f"'{scope}." in paths for scope in scopes):
            found.add(node.name)
    return frozenset(found - {''})


def load_model(path: Path) -> onnx.ModelProto:
    """Parse and check an ONNX file; external weights stay where they are. Raises as :func:`read_graph`."""
    if not path.is_file():
        raise BackendError(f'{path}: no such file: name an ONNX model, or export one first')
    if path.stat().st_size == 0:
        raise BackendError(f'{path}: the file is empty: export the model again')
    try:
        model = onnx.load_model(str(path), format='protobuf', load_external_data=False)
    except DecodeError as error:
        text = f'{path}: not a whole ONNX model ({error}): it is truncated or another kind of file; export it again'
        raise BackendError(text) from error
    except OSError as error:
        raise BackendError(f'{path}: cannot be read ({error.strerror}): check its permissions') from error
    if not model.graph.node and not model.graph.output:
        raise BackendError(
            f'{path}: an ONNX model without a graph: it is truncated or another kind of file; export it again'
        )
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError, OSError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackendError(f'{path}: not a valid ONNX model: {first}; export it again') from error
    return model


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes, those of the branches of If and the bodies of Loop included."""
    found = []
    stack = [graph]
    while stack:
        for node in stack.pop().node:
            found.append(node)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)
    return found


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the types of its values, and without its large weights.

    The inference copies the model to and fro: weights whose values it does not need are left out, which makes it
    fifty times faster and keeps it below the 2 GB of a message.
    """
    heavy = [(tensor, tensor.raw_data) for tensor in model.graph.initializer if len(tensor.raw_data) > 1024]
    for tensor, _ in heavy:
        tensor.ClearField('raw_data')
        tensor.data_location = onnx.TensorProto.EXTERNAL
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor, data in heavy:
        tensor.raw_data = data
        tensor.ClearField('data_location')
    try:
        return onnx.shape_inference.infer_shapes(light).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return light.graph  # what the exporter wrote down must do


def _types(graph: onnx.GraphProto) -> dict[str, str]:
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.HasField('tensor_type'):
            found[value.name] = _DTYPES.get(value.type.tensor_type.elem_type, 'other')
    for tensor in graph.initializer:
        found[tensor.name] = _DTYPES.get(tensor.data_type, 'other')
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found.update(_types(attribute.g))
    return found


def _precision(node: onnx.NodeProto, types: dict[str, str], makers: dict[str, str]) -> str:
    """``fp32``, ``fp16``, ``int8`` ...; empty for a node that computes no floating numbers."""
    if node.op_type in PRODUCTS and node.input and makers.get(node.input[0]) == 'DequantizeLinear':
        return 'int8'
    names = [*node.output[:1], *node.input[:1]] if node.op_type != 'TopK' else [*node.input[:1]]
    for name in names:
        if name in types:
            return _PRECISIONS.get(types[name], '')
    return ''


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type)
    if dtype is None:
        kind = value.type.WhichOneof('value')
        raise BackendError(
            f'{path}: tensor {value.name!r} has the type {kind} {tensor.elem_type}, which is not supported'
        )
    shape: list[int | str] = []
    for number, size in enumerate(tensor.shape.dim):
        shape.append(size.dim_value if size.HasField('dim_value') else size.dim_param or f'{value.name}_{number}')
    return TensorSpec(value.name, dtype, tuple(shape))


def write_model(source: Path, target: Path) -> None:
    """Copy an ONNX file; weights that lie beside it are taken in, so that the copy is one whole file.

    Raises:
        BackendError: The weights beside it are missing, or more than one file can hold (2 GB).
    """
    model = onnx.load_model(str(source), format='protobuf', load_external_data=False)
    if not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        shutil.copyfile(source, target)
        return
    try:
        onnx.load_external_data_for_model(model, str(source.parent))
    except (onnx.checker.ValidationError, OSError) as error:
        raise BackendError(f'{source}: its weights lie in another file that cannot be read: {error}') from error
    if model.ByteSize() > 2**31 - 1:
        raise BackendError(f'{source}: its weights are more than 2 GB, which no single ONNX file holds')
    onnx.save_model(model, str(target))
