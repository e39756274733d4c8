"""From a function of tensors to an ONNX graph, and what the tests ask of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mmtrtvit.deploy.ops import onnx_translations

# What may not be in a default graph: backends lack it, or its result has a shape that depends on the data.
FORBIDDEN = {'NonMaxSuppression', 'NonZero', 'Unique', 'Compress', 'RoiAlign', 'If', 'SequenceAt'}


class Function(nn.Module):
    """A function as a module, with tensors out."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.function(*inputs)


class Graph:
    """An exported function: its file, its model, and ONNX Runtime to run it."""

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        file: Path,
        dynamic_batch: bool = False,
    ) -> None:
        self.function, self.file = function, file
        shapes = tuple({0: torch.export.Dim('batch')} for _ in inputs) if dynamic_batch else None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                Function(function).eval(),
                tuple(inputs),
                dynamo=True,
                opset_version=20,
                custom_translation_table=onnx_translations(),
                dynamic_shapes=None if shapes is None else (shapes,),
                verbose=False,
            )
        assert program is not None
        program.optimize()
        program.save(file)
        self.model = onnx.load(file)
        onnx.checker.check_model(self.model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])

    def __call__(self, *inputs: Tensor) -> list[np.ndarray]:
        names = [value.name for value in self.session.get_inputs()]
        return self.session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})

    def node_types(self) -> set[str]:
        """Domain and type of all nodes, those of loop bodies included; standard ones without a domain."""
        return {f'{node.domain}::{node.op_type}' if node.domain else node.op_type for node in _nodes(self.model.graph)}

    def dynamic_outputs(self) -> list[str]:
        """Values of the graph whose shape is not all numbers."""
        inferred = onnx.shape_inference.infer_shapes(self.model, strict_mode=True, data_prop=True)
        values = [*inferred.graph.value_info, *inferred.graph.output]
        return [
            value.name
            for value in values
            if any(not dim.HasField('dim_value') for dim in value.type.tensor_type.shape.dim)
        ]

    def compile_rtx(self) -> int:
        """Bytes of the TensorRT-RTX engine."""
        tensorrt = pytest.importorskip('tensorrt_rtx_bindings', reason='TensorRT-RTX is not installed')
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(self.file)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
        engine = builder.build_serialized_network(network, builder.create_builder_config())
        assert engine is not None
        return engine.nbytes

    def assert_default(self) -> None:
        """No node and no shape that a default graph may not have."""
        assert not self.node_types() & FORBIDDEN
        assert not [name for name in self.node_types() if '::' in name]
        assert self.dynamic_outputs() == []


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
