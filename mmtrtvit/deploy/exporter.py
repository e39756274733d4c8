"""A graph module to an ONNX file: exported by ``torch.onnx.export(dynamo=True)``, optimised, checked, described."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import logging
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnx_ir.traversal import RecursiveGraphIterator
from torch import Tensor

from mmtrtvit.deploy.graphs.base import INPUT, DeployGraph
from mmtrtvit.deploy.ops.deform_conv import deform_conv2d
from mmtrtvit.deploy.ops.onnx_nms import onnx_translations
from mmtrtvit.errors import UserError
from mmtrtvit.fileio import atomic_path

#: The first opset with everything used here: LayerNormalization (17), GridSample of any rank and Gelu (20).
OPSET = 20
#: Where the file's metadata says which module paths must stay float32 (see ``precision.py``).
FLOAT32_SCOPES = 'mmtrtvit.float32_scopes'  # backends/graph.py reads it too
OPTIONS = 'mmtrtvit.options'
#: No engine but ONNX Runtime takes these as they stand.
BACKEND_OWN = ('NonMaxSuppression', 'RoiAlign', 'DeformConv')
#: No two calls of these give the same.
RANDOM = ('Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike')
DATA_DEPENDENT = ('NonZero', 'Unique', 'Compress', 'StringSplit')

Progress = Callable[[str], None]


class ExportError(UserError, RuntimeError):
    """A model that cannot be exported; the message names the model's part and the way out."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The ONNX file.
        sha256: Of the file.
        opset: Of the default domain.
        nodes_exported: Nodes as torch exported them, before any optimiser.
        nodes: Nodes in the file.
        operators: Node count by operator, most frequent first.
        seconds: Wall time.
        peak_memory_mib: The process's peak resident memory afterwards, MiB.
    """

    path: Path
    sha256: str
    opset: int
    nodes_exported: int
    nodes: int
    operators: Mapping[str, int]
    seconds: float
    peak_memory_mib: int


def export(
    graph: DeployGraph,
    path: str | Path,
    *,
    opset: int = OPSET,
    dynamic_batch: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress = lambda step: None,
) -> ExportReport:
    """Write a graph as one ONNX file.

    Args:
        graph: From :func:`mmtrtvit.deploy.graphs.build_graph`, in eval mode.
        path: The file to make; it appears whole or not at all.
        opset: At least 20.
        dynamic_batch: Leave the batch open; everything else stays static.
        metadata: More entries for the file's metadata; values that are no strings are written as JSON.
        progress: Called with what begins.

    Raises:
        ExportError: torch cannot export the model, or what came out breaks the contract.
    """
    begin = time.perf_counter()
    if opset < OPSET:
        raise ExportError(f'opset={opset}: at least {OPSET} is needed (GridSample of the RoIAlign, Gelu)')
    progress('exporting')
    with quiet():
        program = _export(graph, opset, dynamic_batch)
        nodes_exported = _count(program.model.graph)
        progress('optimising')
        _lift_constants(program)
        program.optimize()
        _keep_constants(program)
    model = program.model_proto
    for key, value in {
        FLOAT32_SCOPES: graph.float32_scopes(),
        OPTIONS: {'task': graph.task, 'image_dtype': graph.options.image_dtype},
        **(metadata or {}),
    }.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    progress('checking')
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    operators = check(model, graph)
    with atomic_path(path) as partial:
        onnx.save(model, str(partial))
        onnx.checker.check_model(str(partial), full_check=True)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    return ExportReport(
        path=Path(path),
        sha256=digest,
        opset=opset,
        nodes_exported=nodes_exported,
        nodes=sum(operators.values()),
        operators=operators,
        seconds=time.perf_counter() - begin,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def _export(graph: DeployGraph, opset: int, dynamic_batch: bool) -> torch.onnx.ONNXProgram:
    """Export a graph as its options ask, with errors that say what to do."""
    image = graph.example_input()
    if dynamic_batch and image.shape[0] == 1:  # torch specialises dimensions of 1
        image = torch.cat([image, image])
    shapes = ({0: torch.export.Dim('batch', min=1)},) if dynamic_batch else None

    try:
        with torch.no_grad():
            program = _translate(graph, graph, image, opset, shapes)
            if graph.options.deform_conv == 'static' and any(
                node.op_type == 'DeformConv' for node in RecursiveGraphIterator(program.model.graph)
            ):
                traced = torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)
                plain = traced.run_decompositions({torch.ops.torchvision.deform_conv2d.default: deform_conv2d})
                program = _translate(plain, graph, image, opset, None)
    except Exception as error:
        cause = error.__cause__ or error
        if dynamic_batch and 'Constraints violated (batch)' in str(cause):
            raise _constant_batch(graph) from error
        raise ExportError(
            f'{type(graph).__name__} with backbone {type(graph.backbone).__name__}: torch {torch.__version__} cannot '
            f'export it: {type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ""}. '
            'MMTRTVIT_DEBUG=1 shows the whole trace'
        ) from error
    batch = program.model.graph.inputs[0].shape
    if dynamic_batch and (batch is None or isinstance(batch[0], int)):  # torch tries again with fixed sizes, in silence
        raise _constant_batch(graph)
    return program


def _constant_batch(graph: DeployGraph) -> ExportError:
    return ExportError(
        f'{type(graph).__name__} with backbone {type(graph.backbone).__name__}: something in it takes the number of '
        'images for a constant: leave out dynamic_batch and set batch_size'
    )


def _translate(source: Any, graph: DeployGraph, image: Tensor, opset: int, shapes: Any) -> torch.onnx.ONNXProgram:
    """Run torch's exporter on a graph, or on what was traced of it."""
    program = torch.onnx.export(
        source,
        (image,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(graph.output_names),
        dynamic_shapes=shapes,
        custom_translation_table=onnx_translations(),
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program


def _lift_constants(program: torch.onnx.ONNXProgram) -> None:
    """Make initializers of Constant nodes, a third of what torch exports and more, before the optimiser looks at them.

    One of its rules (several slices to a Split) walks over the whole graph at every node, which grows with the square.
    """
    passes = (InlinePass(), LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0))
    Sequential(*passes, RemoveUnusedNodesPass())(program.model)


def _keep_constants(program: torch.onnx.ONNXProgram) -> None:
    """Put back constants that onnxscript's rules lost.

    A rule names the constant that it makes after a tensor; two of one name, such as the limits of a Clip of a Clip that
    is there twice, and the graph keeps the last (onnxscript 0.7.2, ``rewriter/_rewrite_rule.py``).
    """
    graph = program.model.graph
    for node in RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is None or value.const_value is None:
                continue
            if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
                value.name = f'{node.name}_{value.name}'
                graph.register_initializer(value)


def check(model: onnx.ModelProto, graph: DeployGraph) -> dict[str, int]:
    """Count the operators and refuse what the contract excludes.

    Raises:
        ExportError: An operator whose output shape depends on the data, a foreign domain, or, unless the options ask
            for the backend's own node, such a node; one that draws random numbers.
    """
    counts: collections.Counter[str] = collections.Counter()
    allowed = []
    if graph.options.nms.form == 'onnx':
        allowed.append('NonMaxSuppression')
    if graph.options.roi_align == 'onnx':
        allowed.append('RoiAlign')
    if graph.options.deform_conv == 'onnx':
        allowed.append('DeformConv')
    for node in nodes_of(model.graph):
        if node.domain not in ('', 'ai.onnx'):
            raise ExportError(f'node {node.name}: operator {node.domain}.{node.op_type} is of a custom domain')
        if node.op_type in DATA_DEPENDENT or (node.op_type in BACKEND_OWN and node.op_type not in allowed):
            raise ExportError(
                f'node {node.name}: {node.op_type} has no static form in TensorRT; it comes from '
                f'{scope_of(node) or "an unnamed part"} of {type(graph).__name__}'
            )
        if node.op_type in RANDOM:
            raise ExportError(
                f'node {node.name}: {node.op_type} draws other numbers at every call, so that no two predictions are '
                f'alike; it comes from {scope_of(node) or "an unnamed part"} of {type(graph).__name__}. Give that part '
                "fixed numbers first (mmseg's LightHamHead, of SegNeXt, draws its bases unless told otherwise)"
            )
        counts[node.op_type] += 1
    return dict(counts.most_common())


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def scope_of(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node was exported from, as ``named_modules`` spells it; '' if unknown."""
    for entry in node.metadata_props:
        if entry.key == 'pkg.torch.onnx.name_scopes':
            names = [name for name in json.loads(entry.value.replace("'", '"')) if name]
            return str(names[-2]) if len(names) > 1 else ''
    return ''


def _count(graph: Any) -> int:
    return sum(1 for _ in graph.all_nodes()) if hasattr(graph, 'all_nodes') else len(graph)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' own chatter off the terminal."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir', 'torch.export', 'torch.fx')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
