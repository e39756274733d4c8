"""Small graphs, one for each thing that a deployed detector asks of a backend, in ONNX's text form."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ['PROBES', 'Probe', 'int8_probe', 'make_probe', 'probe_feed', 'to_fp16', 'to_int8']

_HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
_CONVOLUTION = """probe (float[1, 3, 32, 32] image) => (float[1, 16, 16, 16] features) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w0)
    b = Relu (a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (b, w1)
    d = Relu (c)
    features = Conv <kernel_shape = [1, 1]> (d, w2)
}"""
_ATTENTION = """probe (float[1, 64, 32] tokens) => (float[1, 64, 32] mixed) {
    n = LayerNormalization <axis = -1> (tokens, scale, shift)
    q = MatMul (n, wq)
    k = MatMul (n, wk)
    v = MatMul (n, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul (q, kt)
    p = Softmax <axis = -1> (s)
    o = MatMul (p, v)
    mixed = Add (tokens, o)
}"""
_GRID_SAMPLE = """probe (float[1, 8, 16, 16] map, float[1, 14, 14, 2] grid) => (float[1, 8, 14, 14] sampled) {
    sampled = GridSample <mode = "linear", padding_mode = "border", align_corners = 0> (map, grid)
}"""
_TOP_K = """probe (float[1, 1000] score) => (float[1, 100] best, int64[1, 100] index) {
    best, index = TopK <axis = 1, largest = 1, sorted = 1> (score, k)
}"""
_INT8_SUMS = """probe (float[1, 64] image) => (float[1, 16] sums) {
    i = QuantizeLinear (image, one, zero)
    a = DequantizeLinear (i, one, zero)
    w = DequantizeLinear <axis = 1> (weight, scales, zeros)
    p = MatMul (a, w)
    q = QuantizeLinear (p, step, zero)
    sums = DequantizeLinear (q, step, zero)
}"""
_ROUNDS = 8
#: keep = (keep @ suppresses < 0.5), repeated: its fixed point is greedy NMS (Cluster-NMS, Zheng et al. 2020).
_MATRIX_NMS = (
    """probe (float[1, 64, 4] boxes) => (float[1, 1, 64] keep) {
    x0, y0, x1, y1 = Split <axis = 2, num_outputs = 4> (boxes)
    width = Sub (x1, x0)
    height = Sub (y1, y0)
    area = Mul (width, height)
    x0t = Transpose <perm = [0, 2, 1]> (x0)
    y0t = Transpose <perm = [0, 2, 1]> (y0)
    x1t = Transpose <perm = [0, 2, 1]> (x1)
    y1t = Transpose <perm = [0, 2, 1]> (y1)
    areat = Transpose <perm = [0, 2, 1]> (area)
    right = Min (x1, x1t)
    left = Max (x0, x0t)
    bottom = Min (y1, y1t)
    top = Max (y0, y0t)
    iw = Sub (right, left)
    ih = Sub (bottom, top)
    iwp = Relu (iw)
    ihp = Relu (ih)
    inter = Mul (iwp, ihp)
    both = Add (area, areat)
    union = Sub (both, inter)
    limit = Mul (union, half)
    over = Greater (inter, limit)
    overf = Cast <to = 1> (over)
    suppresses = Mul (overf, upper)
    keep0 = Identity (ones)
"""
    + ''.join(
        f"""    hit{turn} = MatMul (keep{turn - 1}, suppresses)
    free{turn} = Less (hit{turn}, half)
    keep{turn} = Cast <to = 1> (free{turn})
"""
        for turn in range(1, _ROUNDS + 1)
    )
    + f'    keep = Identity (keep{_ROUNDS})\n}}'
)


@dataclass(frozen=True)
class Probe:
    """A small graph with what its constants and inputs are drawn from.

    Attributes:
        text: The graph.
        weights: Name -> shape of what is drawn at random.
        constants: Name -> value of what is not.
        inputs: Makes the inputs.
    """

    text: str
    weights: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray]
    inputs: Callable[[np.random.Generator], dict[str, np.ndarray]]


def _boxes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    corner = rng.integers(0, 24, (1, 64, 2))
    size = rng.integers(4, 24, (1, 64, 2))  # whole pixels: no two backends may round an overlap differently
    return {'boxes': np.concatenate([corner, corner + size], axis=2).astype(np.float32)}


def _normal(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    return lambda rng: {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


PROBES = {
    'convolution': Probe(
        _CONVOLUTION,
        {'w0': (16, 3, 3, 3), 'w1': (16, 16, 3, 3), 'w2': (16, 16, 1, 1)},
        {},
        _normal(image=(1, 3, 32, 32)),
    ),
    'attention': Probe(
        _ATTENTION,
        {'wq': (32, 32), 'wk': (32, 32), 'wv': (32, 32)},
        {'scale': np.ones(32, np.float32), 'shift': np.zeros(32, np.float32)},
        _normal(tokens=(1, 64, 32)),
    ),
    'grid sample': Probe(
        _GRID_SAMPLE,
        {},
        {},
        lambda rng: {
            'map': rng.standard_normal((1, 8, 16, 16), dtype=np.float32),
            'grid': rng.uniform(-1, 1, (1, 14, 14, 2)).astype(np.float32),
        },
    ),
    'top k': Probe(
        _TOP_K,
        {},
        {'k': np.array([100], np.int64)},
        lambda rng: {'score': rng.permutation(1000).astype(np.float32)[None] / 1000},
    ),
    'matrix NMS': Probe(
        _MATRIX_NMS,
        {},
        {
            'half': np.array([0.5], np.float32),
            'ones': np.ones((1, 1, 64), np.float32),
            'upper': np.triu(np.ones((1, 64, 64), np.float32), 1),
        },
        _boxes,
    ),
}


def make_probe(name: str, path: Path, seed: int = 0) -> Path:
    """Write the graph called ``name``, weights drawn with ``seed``; return ``path``."""
    probe = PROBES[name]
    model = onnx.parser.parse_model(_HEADER + probe.text)
    rng = np.random.default_rng(seed)
    for key, shape in probe.weights.items():
        values = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(np.prod(shape[1:] or shape))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), key))
    for key, value in probe.constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, key))
    onnx.save_model(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def probe_feed(name: str, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs for the graph called ``name``."""
    return PROBES[name].inputs(np.random.default_rng(seed))


def int8_probe() -> onnx.ModelProto:
    """A product of int8 weights, all 127, with what its input ``image (1, 64)`` rounds to: 64 terms a sum."""
    constants: dict[str, np.ndarray] = {
        'one': np.ones((), np.float32),
        'step': np.full((), 127 * 64, np.float32),
        'zero': np.zeros((), np.int8),
        'weight': np.full((64, 16), 127, np.int8),
        'scales': np.ones(16, np.float32),
        'zeros': np.zeros(16, np.int8),
    }
    model = onnx.parser.parse_model(_HEADER + _INT8_SUMS)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def to_fp16(source: Path, target: Path) -> Path:
    """Cast weights and activations to fp16, inputs and outputs staying fp32; return ``target``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(onnx.load_model(str(source)), keep_io_types=True))
    model.topological_sort()  # the converter appends its casts at the end
    onnx.save_model(model.model, str(target))
    return target


def to_int8(source: Path, target: Path, feeds: list[dict[str, np.ndarray]]) -> Path:
    """Quantise convolutions and matrix products with Q/DQ nodes, calibrated on ``feeds``; return ``target``."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    logging.disable(logging.WARNING)  # it recommends a pre-processing that graphs this small do not need
    try:
        _quantize(source, target, Reader())
    finally:
        logging.disable(logging.NOTSET)
    return target


def _quantize(source: Path, target: Path, reader: Any) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(source),
        str(target),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
        extra_options={'ActivationSymmetric': True, 'WeightSymmetric': True},
    )
