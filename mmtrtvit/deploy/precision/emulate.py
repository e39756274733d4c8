"""An fp16 graph's arithmetic on a CPU.

ONNX Runtime's CPU provider has few fp16 kernels. It computes most fp16 nodes in fp32 and removes the casts between
neighbours, so that neither rounding nor overflow of activations shows: an accuracy measured that way is that of the
rounded weights alone. Here every node's result is rounded to fp16 and back, as an engine stores it. Not shown: the
order and precision of sums inside one kernel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from mmtrtvit.deploy.precision import files


def emulate_fp16(onnx_in: str | Path, onnx_out: str | Path) -> None:
    """Write an fp16 graph as an fp32 one that rounds the result of every fp16 node.

    Args:
        onnx_in: A file of :func:`mmtrtvit.deploy.precision.to_fp16`.
        onnx_out: The file to make, for measuring accuracy on a CPU; it appears whole or not at all.

    Raises:
        PrecisionError: The file is not one of ours.
        OSError: The file cannot be written.
    """
    model, _ = files.read(Path(onnx_in))
    model = files.infer(model)
    graph = model.graph
    types = files.types_of(graph)
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(files.array(tensor).astype(np.float32), tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        copy = NodeProto.FromString(node.SerializeToString())
        rounded = [name for name in node.output if name in half]
        for attribute in copy.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(files.array(attribute.t).astype(np.float32)))
            elif node.op_type == 'Cast' and attribute.name == 'to' and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        copy.output[:] = [f'{name}_exact' if name in half else name for name in node.output]
        nodes.append(copy)
        for name in rounded:
            nodes.append(helper.make_node('Cast', [f'{name}_exact'], [f'{name}_half'], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node('Cast', [f'{name}_half'], [name], to=TensorProto.FLOAT))
    _replace(graph, nodes)
    files.write(files.infer(model), Path(onnx_out))


def _replace(graph: GraphProto, nodes: list[NodeProto]) -> None:
    for number, node in enumerate(nodes):
        node.name = node.name or f'round_{number}'
    files.replace_nodes(graph, nodes)
