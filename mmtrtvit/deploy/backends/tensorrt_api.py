"""What surrounds a TensorRT build: the library's messages, its progress, Ctrl-C, and its layers counted.

Nothing here imports TensorRT: the module is handed in, be it ``tensorrt`` 10 or 11 or ``tensorrt_rtx``.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from mmtrtvit.deploy.backends.tally import Tally
from mmtrtvit.deploy.backends.types import BackendError, Progress

__all__ = ['inspector_tally', 'make_logger', 'make_monitor', 'network_tally', 'run_cancellable', 'tensor_dtype']

T = TypeVar('T')
_LOG = logging.getLogger(__name__)

#: Layer types of a network that hold the multiplications.
_PRODUCTS = frozenset({'CONVOLUTION', 'DECONVOLUTION', 'MATRIX_MULTIPLY', 'EINSUM', 'ATTENTION_OUTPUT', 'MOE'})
#: Layer types of a network that compute nothing: they store, move, reshape or convert.
_NO_WORK = frozenset({
    'CONSTANT', 'SHAPE', 'SHUFFLE', 'SLICE', 'CONCATENATION', 'GATHER', 'SQUEEZE', 'UNSQUEEZE', 'IDENTITY', 'CAST',
    'QUANTIZE', 'DEQUANTIZE', 'PADDING', 'ASSERTION', 'CONDITION', 'CONDITIONAL_INPUT', 'CONDITIONAL_OUTPUT',
    'ITERATOR', 'LOOP_OUTPUT', 'RECURRENCE', 'TRIP_LIMIT', 'REVERSE_SEQUENCE', 'ATTENTION_INPUT', 'FILL', 'ONE_HOT',
})  # fmt: skip
_PRECISIONS = {'FLOAT': 'fp32', 'HALF': 'fp16', 'BF16': 'bf16', 'FP8': 'fp8', 'INT8': 'int8'}

#: The inspector's spellings differ between versions: ``Half``, ``FP16 NC/8HW8``, ``Row major linear FP32``.
_INSPECTED = (
    ('fp16', re.compile(r'\b(fp16|half)\b', re.IGNORECASE)),
    ('fp32', re.compile(r'\b(fp32|float|tf32)\b', re.IGNORECASE)),
    ('int8', re.compile(r'\bint8\b', re.IGNORECASE)),
    ('bf16', re.compile(r'\b(bf16|bfloat16)\b', re.IGNORECASE)),
    ('fp8', re.compile(r'\bfp8\b', re.IGNORECASE)),
)
_DTYPES = {
    'FLOAT': 'float32',
    'HALF': 'float16',
    'BF16': 'bfloat16',
    'INT8': 'int8',
    'UINT8': 'uint8',
    'INT32': 'int32',
    'INT64': 'int64',
    'BOOL': 'bool',
}
_INSPECTED_PRODUCT = re.compile(r'conv|gemm|matmul|matrixmultiply|matrix_multiply|mha|attention|einsum', re.IGNORECASE)
#: Between the names of what was fused into a layer: ``a + b``, ``{ForeignNode[a...b]}``.
_FUSED = re.compile(r'\s\+\s|[\[\]{}\s]+|\.\.\.')
_INSPECTED_NO_WORK = re.compile(
    r'reformat|constant|shape_call|shuffle|slice|concat|gather|signal|wait|copy|cast|noop', re.IGNORECASE
)


def make_logger(api: Any) -> Any:
    """A logger of that library which keeps what it is told.

    Returns:
        An ``ILogger`` with ``errors`` and ``warnings``, lists of text.
    """

    class Logger(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            kind = severity.name
            _LOG.debug('%s: %s', kind, message)
            if kind in ('ERROR', 'INTERNAL_ERROR'):
                self.errors.append(message)
            elif kind == 'WARNING' and message not in self.warnings:
                self.warnings.append(message)

    return Logger()


class Cancellation:
    """Set from one thread, seen by the builder's; keeps what its progress callback raised."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.error: BaseException | None = None


def make_monitor(api: Any, progress: Progress | None, cancellation: Cancellation) -> Any:
    """An ``IProgressMonitor`` that hands on to ``progress`` and stops the build at a cancellation.

    Nothing may be raised through native frames, so an error of the callback cancels and is kept.
    """

    class Monitor(api.IProgressMonitor):
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.lock = threading.Lock()

        def _tell(self, phase: str, step: int) -> None:
            if progress is None or cancellation.event.is_set():
                return
            try:
                with self.lock:
                    progress(phase, step, self.steps.get(phase, step))
            except BaseException as error:
                cancellation.error = error
                cancellation.event.set()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self.steps.get(phase_name, 0))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not cancellation.event.is_set()

    return Monitor()


def run_cancellable(work: Callable[[], T], cancellation: Cancellation) -> T:
    """Run ``work`` in a thread, so that Ctrl-C reaches Python while the library computes.

    Raises:
        BaseException: What ``work`` or the progress callback raised, or the interrupt, after ``work`` has ended.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def target() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)  # a new thread begins on device 0
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name='engine build', daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except BaseException:
        cancellation.event.set()
        thread.join()
        raise
    if cancellation.error is not None:
        raise cancellation.error
    if errors:
        raise errors[0]
    return results[0]


def tensor_dtype(dtype: Any) -> str:
    """PyTorch's name of a TensorRT type.

    Raises:
        BackendError: PyTorch has no such type.
    """
    if dtype.name not in _DTYPES:
        raise BackendError(f'an engine with {dtype.name} tensors is not supported: export it with other types')
    return _DTYPES[dtype.name]


def network_tally(network: Any, by_design: frozenset[str] = frozenset()) -> Tally:
    """Count the layers of a parsed, strongly typed network; products named in ``by_design`` are fp32 on purpose."""
    makers: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    products: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        kinds[kind] += 1
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        makers.update({output.name: kind for output in outputs if output is not None})
        if kind in _NO_WORK or not outputs or outputs[0] is None:
            continue
        precision = _PRECISIONS.get(outputs[0].dtype.name, '')
        first = layer.get_input(0) if layer.num_inputs else None
        if kind in _PRODUCTS and first is not None and makers.get(first.name) == 'DEQUANTIZE':
            precision = 'int8'
        if precision:
            floats[precision] += 1
            products[precision] += kind in _PRODUCTS and layer.name not in by_design
    found = {key: count for key, count in products.items() if count}
    return Tally('network', sum(kinds.values()), dict(kinds.most_common()), found, dict(floats))


def inspector_tally(text: str, by_design: frozenset[str] = frozenset()) -> Tally | None:
    """Count the layers in the inspector's JSON; None where it does not tell the types of its layers.

    An engine built without detailed profiling lists names only, and one whole-graph layer (as TensorRT-RTX makes)
    tells nothing of what is inside: then the parsed network must do. So it must where fused layers have lost the names
    of the products in ``by_design``, which are fp32 on purpose and do not count.
    """
    try:
        layers = json.loads(text)['Layers']
    except (ValueError, KeyError, TypeError):
        return None
    detailed = [layer for layer in layers if isinstance(layer, dict) and 'LayerType' in layer]
    kinds: Counter[str] = Counter()
    products: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    seen: set[str] = set()
    for layer in detailed:
        kind = str(layer['LayerType'])
        kinds[kind] += 1
        fused = _FUSED.split(str(layer.get('Name', '')))
        seen.update(fused)
        name = f'{kind} {layer.get("Name", "")}'
        precision = _inspected_precision(layer)
        if not precision or _INSPECTED_NO_WORK.search(kind):
            continue
        product = bool(_INSPECTED_PRODUCT.search(name) or _INSPECTED_PRODUCT.search(str(layer.get('TacticName', ''))))
        floats[precision] += 1
        products[precision] += product and by_design.isdisjoint(fused)
    found = {key: count for key, count in products.items() if count}
    if len(detailed) != len(layers) or not found or len(detailed) < 2 or not by_design <= seen:
        return None
    return Tally('inspector', len(layers), dict(kinds.most_common()), found, dict(floats))


def _inspected_precision(layer: dict[str, Any]) -> str:
    """The type of a layer's first floating input or output; a product on int8 data counts as int8."""
    for side in ('Inputs', 'Outputs'):
        for tensor in layer.get(side) or ():
            if not isinstance(tensor, dict):
                continue
            # 10: 'Format/Datatype'; 11 split it into two fields.
            text = ' '.join(str(value) for key, value in tensor.items() if 'type' in key.lower() or key == 'Format')
            for precision, pattern in _INSPECTED:
                if pattern.search(text):
                    return precision
    return ''
