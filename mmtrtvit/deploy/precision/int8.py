"""int8 by explicit Q/DQ nodes, placed by onnxruntime's static quantiser.

What is quantised: convolutions and matrix products with constant weights, outside the float32 islands. Weights have
a scale a channel, activations one a tensor, all zero points are 0. What is not:

* products of two activations (attention), by TensorRT's own practice;
* biases: TensorRT wants them in float;
* tensors for readers that are no quantised product: the quantiser hands every reader the rounded values; here they
  get the exact ones back, but for the shortcut of a ResNet block beside its last convolution, where TensorRT fuses
  the sum and the Relu into the int8 kernel;
* the first convolution and the last products, which cost little and move detections most.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import save_tensors_data

from mmtrtvit.deploy.exporter import quiet
from mmtrtvit.deploy.precision import files
from mmtrtvit.deploy.precision.fp16 import cast, count_products
from mmtrtvit.deploy.precision.islands import PRODUCTS, float32_nodes, last_products, neighbours, touch_floats
from mmtrtvit.deploy.precision.ranges import METHODS, Feed, Progress, collect
from mmtrtvit.deploy.precision.report import PrecisionError, PrecisionReport

_METHODS = {
    'entropy': CalibrationMethod.Entropy,
    'percentile': CalibrationMethod.Percentile,
    'minmax': CalibrationMethod.MinMax,
}
_PRE_PROCESSED = 'onnx.quant.pre_process'


def to_int8(
    onnx_in: str | Path,
    onnx_out: str | Path,
    batches: Iterable[Feed],
    method: str = 'entropy',
    *,
    keep: Iterable[str] = (),
    rest: str = 'fp32',
    skip_input: bool = True,
    skip_output: bool = True,
    residual: bool = True,
    progress: Progress = lambda phase, step, steps: None,
) -> PrecisionReport:
    """Quantise an exported graph to int8; inputs, outputs and the islands stay float32.

    Args:
        onnx_in: A file of :func:`mmtrtvit.deploy.exporter.export`, in fp32.
        onnx_out: The file to make; it appears whole or not at all.
        batches: Images (input name -> array) that the scales of activations are chosen on.
        method: ``'entropy'`` (the cut that keeps most of a tensor's distribution), ``'percentile'`` (99.999 %) or
            ``'minmax'`` (nothing is cut off: outliers stretch the scale); of onnxruntime's calibrators.
        keep: Names of nodes that are to stay in float beside those that must.
        rest: What is not quantised is ``'fp32'``, or ``'fp16'`` as :func:`to_fp16` makes it.
        skip_input: Leave the first convolutions alone, which see the image.
        skip_output: Leave the last products alone, which make class logits and box deltas.
        residual: Let shortcuts carry the int8 values of the convolution beside them.
        progress: Called with the phase, the step and the number of steps, 0 where that is not known.

    Raises:
        PrecisionError: The file is not one of ours, or the batches do not fit it.
        OSError: The file cannot be written.
    """
    begin, source = time.perf_counter(), Path(onnx_in)
    if rest not in ('fp32', 'fp16'):
        raise PrecisionError(f"rest={rest!r} is not 'fp32' or 'fp16'")
    if method not in METHODS:
        raise PrecisionError(f'method={method!r} is not one of {", ".join(METHODS)}')
    model, scopes = files.read(source)
    model = files.normalize(model)
    if any(node.op_type == 'QuantizeLinear' for node in model.graph.node):
        raise PrecisionError(f'{source}: has Q/DQ nodes already: quantise the fp32 file')
    islands = float32_nodes(model, scopes, keep)
    chosen, left = choose(model, islands, skip_input=skip_input, skip_output=skip_output)
    if not chosen:
        raise PrecisionError(
            f'{source}: has no convolution or matrix product that int8 could take: nothing to quantise'
        )
    model = _calibrate(model, batches, chosen, method, progress)
    _settle_readers(model, chosen, residual)
    files.sort_nodes(model.graph)
    model = files.infer(model)
    flushed: dict[str, int] = {}
    kept = touch_floats(model.graph, {**islands, **left})
    if rest == 'fp16':
        model, flushed = cast(model, float32_nodes(model, scopes, keep))
    digest = files.write(model, Path(onnx_out))
    progress('Quantising', 1, 1)
    return PrecisionReport(
        path=Path(onnx_out),
        sha256=digest,
        precision='int8',
        products=count_products(model.graph, scopes),
        kept=kept,
        casts=sum(node.op_type == 'Cast' for node in model.graph.node),
        quantizers=sum(node.op_type == 'QuantizeLinear' for node in model.graph.node),
        flushed=sum(flushed.values()),
        nodes=len(model.graph.node),
        seconds=time.perf_counter() - begin,
    )


def choose(
    model: ModelProto, islands: dict[str, str], *, skip_input: bool, skip_output: bool
) -> tuple[set[str], dict[str, str]]:
    """Return the names of the nodes to quantise, and of the products left in float the reason."""
    graph = model.graph
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    first = first_products(graph)
    last = last_products(graph, islands)
    chosen, left = set(), {}
    for node in graph.node:
        if node.op_type not in PRODUCTS or islands.get(node.name, 'scores') != 'scores':
            continue
        rank = constants.get(node.input[1])
        if rank is None or (node.op_type == 'MatMul' and rank != 2):
            left[node.name] = 'activations'
        elif node.op_type == 'Gemm' and _attribute(node, 'beta', 1.0) != 1.0:
            left[node.name] = 'beta'  # the quantiser would set it to 1
        elif skip_input and node.name in first:
            left[node.name] = 'input'
        elif skip_output and node.name in last:
            left[node.name] = 'output'
        else:
            chosen.add(node.name)
    return chosen, left


def first_products(graph: GraphProto) -> set[str]:
    """Products with no product before them."""
    behind: set[str] = set()  # tensors with a product before them
    first = set()
    for node in graph.node:
        product = node.op_type in PRODUCTS
        follows = any(name in behind for name in node.input)
        if product and not follows:
            first.add(node.name)
        if product or follows:
            behind.update(node.output)
    return first


def _calibrate(
    model: ModelProto, batches: Iterable[Feed], chosen: set[str], method: str, progress: Progress
) -> ModelProto:
    """Return the model with Q/DQ nodes at the chosen ones, their scales from the batches."""
    tensors = {node.input[0] for node in model.graph.node if node.name in chosen}
    with tempfile.TemporaryDirectory(prefix='mmtrtvit-') as folder:
        plain, ranges = Path(folder) / 'fp32.onnx', Path(folder) / 'ranges.json'
        onnx.save(model, str(plain))
        save_tensors_data(collect(plain, batches, tensors, method, progress), ranges)
        progress('Quantising', 0, 1)
        return _quantize(plain, Path(folder) / 'int8.onnx', ranges, chosen, method)


def _quantize(source: Path, target: Path, ranges: Path, chosen: set[str], method: str) -> ModelProto:
    """Run onnxruntime's quantiser on the chosen nodes."""
    model = onnx.load(str(source))
    entry = model.metadata_props.add()  # else it asks for its pre-processing, whose work the exporter has done
    entry.key, entry.value = _PRE_PROCESSED, 'onnxruntime.quant'
    with quiet():
        quantize_static(
            model,
            target,
            None,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=sorted(chosen),
            calibrate_method=_METHODS[method],
            calibration_cache_path=ranges,
            extra_options={
                'ActivationSymmetric': True,
                'WeightSymmetric': True,
                'QuantizeBias': False,
                'QDQDisableWeightAdjustForInt32Bias': True,
                'OpTypesToExcludeOutputQuantization': list(PRODUCTS),
                'QDQOpTypePerChannelSupportToAxis': {'MatMul': 1},
            },
        )
    model = onnx.load(str(target))
    for number, entry in reversed(list(enumerate(model.metadata_props))):
        if entry.key == _PRE_PROCESSED:
            del model.metadata_props[number]
    return model


def _settle_readers(model: ModelProto, chosen: set[str], residual: bool) -> None:
    """Give readers that are not quantised the exact values back, and Q/DQ nodes the scope of their reader."""
    graph = model.graph
    makers, readers = neighbours(graph)
    for pair in graph.node:
        if pair.op_type != 'DequantizeLinear':
            continue
        users = readers.get(pair.output[0], [])
        nodes = [pair]
        before = makers.get(pair.input[0])  # None: a weight
        if before is not None and before.op_type == 'QuantizeLinear':
            nodes.append(before)
            for user in users:
                shortcut = residual and _is_shortcut(user, pair.output[0], makers, readers, chosen)
                if user.name not in chosen and not shortcut:
                    user.input[:] = [before.input[0] if name == pair.output[0] else name for name in user.input]
        for node in nodes:
            for user in [user for user in users if user.name in chosen][:1]:
                del node.metadata_props[:]
                node.metadata_props.extend(user.metadata_props)


def _is_shortcut(
    node: NodeProto,
    tensor: str,
    makers: dict[str, NodeProto],
    readers: dict[str, list[NodeProto]],
    chosen: set[str],
) -> bool:
    """Whether a node adds ``tensor`` to what a quantised convolution makes for it alone, before a Relu.

    A residual block of that kind ends in int8 anyway; the stream of a transformer must not be rounded on its way.
    """
    if node.op_type != 'Add' or [reader.op_type for reader in readers.get(node.output[0], [])] != ['Relu']:
        return False
    others = [name for name in node.input if name != tensor]
    maker = makers.get(others[0]) if len(others) == 1 else None
    return maker is not None and maker.op_type == 'Conv' and maker.name in chosen and len(readers[others[0]]) == 1


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((attribute.f for attribute in node.attribute if attribute.name == name), default)
