"""ONNX Runtime on the CPU and on CUDA GPUs. Its engine is the ONNX file itself, checked."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtrtvit.deploy.backends.base import Backend, Built, Runner
from mmtrtvit.deploy.backends.check_graphs import int8_probe
from mmtrtvit.deploy.backends.graph import GraphFacts, load_model, write_model
from mmtrtvit.deploy.backends.options import BuildOptions, LoadOptions
from mmtrtvit.deploy.backends.tally import Tally
from mmtrtvit.deploy.backends.types import Availability, BackendError, LayerCost, Progress, TensorSpec, costs_by_share

try:
    import onnxruntime as ort
except ImportError:  # the extra is not installed: availability() says so
    ort = None

__all__ = ['OnnxRuntimeBackend']

_INSTALL = "ONNX Runtime is not installed: pip install 'mmtrtvit[deploy]'"
_INSTALL_GPU = 'this ONNX Runtime has no CUDA provider: pip uninstall onnxruntime && pip install onnxruntime-gpu'
_DTYPES = {
    'tensor(float)': 'float32',
    'tensor(float16)': 'float16',
    'tensor(double)': 'float64',
    'tensor(uint8)': 'uint8',
    'tensor(int8)': 'int8',
    'tensor(int32)': 'int32',
    'tensor(int64)': 'int64',
    'tensor(bool)': 'bool',
}


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime, CPU and CUDA providers.

    The CPU provider runs an fp16 graph by casting around most of its nodes: right for the rounding of weights and
    stored activations, slower than fp32, and no proof of a GPU kernel's accumulation. The build report warns.

    The CUDA path (:class:`_BoundRunner`) follows ONNX Runtime's documentation of IOBinding; it was not run on
    hardware by the authors.
    """

    name = 'onnxruntime'
    engine_suffix = '.onnx'
    load_fields = frozenset({'check_finite', 'cuda_graph', 'threads', 'graph_optimization'})

    def availability(self) -> Availability:
        """Where the library is installed, everything can be done."""
        if ort is None:
            return Availability('', _INSTALL, _INSTALL)
        return Availability(ort.__version__)

    def _build(
        self,
        onnx: Path,
        partial: Path,
        engine: Path,
        facts: GraphFacts,
        options: BuildOptions,
        progress: Progress | None,
    ) -> Built:
        if progress:
            progress('Checking the graph', 0, 1)
        write_model(onnx, partial)
        session = _session(partial, 'cpu', LoadOptions(graph_optimization='none'), shown=onnx)
        if progress:
            progress('Checking the graph', 1, 1)
        tally = Tally('graph', facts.nodes, facts.nodes_by_type, facts.products, facts.floats)
        return Built(
            tally, _specs(session.get_inputs(), onnx), _specs(session.get_outputs(), onnx), warnings=_warnings(facts)
        )

    def _check_device(self, device: torch.device, options: LoadOptions) -> None:
        if device.type == 'cpu' and options.cuda_graph:
            raise BackendError("LoadOptions.cuda_graph=True: needs device='cuda', not 'cpu'")
        if device.type != 'cpu' and 'CUDAExecutionProvider' not in ort.get_available_providers():
            raise BackendError(f"device={str(device)!r}: {_INSTALL_GPU}, or use device='cpu'")

    def _load(self, engine: Path, device: torch.device, options: LoadOptions) -> Runner:
        load_model(engine)  # a readable message, and no damaged file reaches the native parser
        return (_CpuRunner if device.type == 'cpu' else _BoundRunner)(engine, device, options)


def _warnings(facts: GraphFacts) -> tuple[str, ...]:
    found = []
    if 'fp16' in facts.floats:
        found.append(
            'fp16 on the CPU provider: most nodes are computed in fp32 between casts; timings there tell nothing'
        )
    if 'int8' in facts.products and not _int8_is_exact():
        found.append(
            'int8 on this CPU: without VNNI, ONNX Runtime would cut off sums of products; they are computed in fp32 '
            'between Q/DQ nodes, exactly; timings there tell nothing'
        )
    return tuple(found)


@functools.cache
def _int8_is_exact() -> bool:
    """Whether int8 kernels of this CPU compute what the Q/DQ nodes say.

    On x86 without VNNI they add pairs of products in 16 bits and cut off what is beyond. ONNX Runtime's own way out,
    ``session.x64quantprecision``, fails where two nodes share a weight, as heads over several levels do (1.31.1).
    """
    session = ort.InferenceSession(int8_probe().SerializeToString(), providers=['CPUExecutionProvider'])
    image = np.full(session.get_inputs()[0].shape, 127, np.float32)
    return bool(np.all(session.run(None, {'image': image})[0] == 64 * 127 * 127))


def _session(path: Path, device: str, options: LoadOptions, shown: Path, profile: str = '') -> Any:
    """An inference session, or a message that names ``shown``."""
    wanted = ort.SessionOptions()
    wanted.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    wanted.graph_optimization_level = {
        'none': levels.ORT_DISABLE_ALL,
        'basic': levels.ORT_ENABLE_BASIC,
        'extended': levels.ORT_ENABLE_EXTENDED,
        'all': levels.ORT_ENABLE_ALL,
    }[options.graph_optimization]
    if not _int8_is_exact():
        wanted.add_session_config_entry('session.disable_quant_qdq', '1')
    if options.threads is not None:
        wanted.intra_op_num_threads = options.threads
        wanted.inter_op_num_threads = 1
    if profile:
        wanted.enable_profiling = True
        wanted.profile_file_prefix = profile
    providers: list[Any] = ['CPUExecutionProvider']
    if device != 'cpu':
        cuda = {
            'device_id': device.partition(':')[2] or '0',
            'enable_cuda_graph': '1' if options.cuda_graph else '0',
            'use_tf32': '0',  # fp32 is fp32, as in the other backends
        }
        providers.insert(0, ('CUDAExecutionProvider', cuda))
    try:
        return ort.InferenceSession(str(path), wanted, providers=providers)
    except Exception as error:  # its exceptions share no base class of their own
        raise BackendError(f'{shown}: ONNX Runtime {ort.__version__} refuses the graph: {error}') from error


def _specs(values: list[Any], path: Path) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        if value.type not in _DTYPES:
            raise BackendError(f'{path}: tensor {value.name!r} has the type {value.type}, which is not supported')
        shape = tuple(
            size if isinstance(size, int) else str(size) if size else f'{value.name}_{number}'
            for number, size in enumerate(value.shape)
        )
        specs.append(TensorSpec(value.name, _DTYPES[value.type], shape))
    return tuple(specs)


class _SessionRunner(Runner):
    """What both providers share."""

    def __init__(self, engine: Path, device: torch.device, options: LoadOptions) -> None:
        self._engine, self._options = engine, options
        self._session = _session(engine, str(device), options, engine)
        inputs, outputs = (
            _specs(values, engine) for values in (self._session.get_inputs(), self._session.get_outputs())
        )
        super().__init__(inputs, outputs, device, options.check_finite)

    def profile(self, feed: Mapping[str, torch.Tensor], runs: int = 10) -> list[LayerCost]:
        """Cost of each node, from ONNX Runtime's own profiler; on a GPU none: it tells how long a launch takes."""
        if self.device.type == 'cuda':
            return []
        checked, _ = self._checked(feed)
        arrays = {name: tensor.cpu().numpy() for name, tensor in checked.items()}
        options = LoadOptions(threads=self._options.threads, graph_optimization=self._options.graph_optimization)
        with tempfile.TemporaryDirectory(prefix='mmtrtvit-') as folder:
            session = _session(self._engine, str(self.device), options, self._engine, profile=f'{folder}/run')
            for _ in range(runs + 1):
                session.run(None, arrays)
            events = json.loads(Path(session.end_profiling()).read_bytes())
        return _costs(events, runs)

    def close(self) -> None:
        """Drop the session."""
        super().close()
        self._session = None


def _costs(events: list[dict[str, Any]], runs: int) -> list[LayerCost]:
    """Mean of the last ``runs`` runs; a node inside a loop counts with all its turns."""
    spent: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in events:
        name = str(event.get('name', ''))
        if event.get('cat') == 'Node' and name.endswith('_kernel_time'):
            node = name.removesuffix('_kernel_time')
            spent.setdefault(node, []).append(float(event['dur']) / 1000)
            kinds[node] = str(event.get('args', {}).get('op_name', ''))
    times = {}
    for node, values in spent.items():
        first = len(values) // (runs + 1)  # events of the run that warms up
        times[node] = (kinds[node], sum(values[first:]) / runs)
    return costs_by_share(times)


class _CpuRunner(_SessionRunner):
    """NumPy views of torch's memory go in and come out: nothing is copied."""

    def _run(self, feed: dict[str, torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        try:
            results = self._session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        except Exception as error:  # its exceptions share no base class of their own
            raise BackendError(f'{self._engine}: ONNX Runtime failed: {error}') from error
        return {spec.name: torch.from_numpy(array) for spec, array in zip(self.outputs, results, strict=True)}


class _BoundRunner(_SessionRunner):
    """IOBinding on torch's memory: on a GPU nothing passes through the host.

    Tested on the CPU's memory; not run on a GPU by the authors.
    """

    def __init__(self, engine: Path, device: torch.device, options: LoadOptions) -> None:
        super().__init__(engine, device, options)
        if device.type == 'cuda' and 'CUDAExecutionProvider' not in self._session.get_providers():
            raise BackendError(
                f'{engine}: ONNX Runtime could not start its CUDA provider and fell back to the CPU: install the CUDA '
                'and cuDNN libraries that it names above'
            )
        dynamic = [spec for spec in (*self.inputs, *self.outputs) if spec.dynamic]
        if options.cuda_graph and dynamic:
            raise BackendError(f'{engine}: LoadOptions.cuda_graph=True needs static shapes, but there is {dynamic[0]}')
        self._kept: dict[str, torch.Tensor] = {}  # a recorded graph reads and writes the same memory at every run

    def _run(self, feed: dict[str, torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        replay = self._options.cuda_graph
        if replay:
            for name, tensor in feed.items():
                self._kept.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
            feed = {name: self._kept[name] for name in feed}
        binding = self._session.io_binding()
        place = self.device.type, self.device.index or 0
        for name, tensor in feed.items():
            binding.bind_input(name, *place, _numpy(tensor), tuple(tensor.shape), tensor.data_ptr())
        outputs: dict[str, torch.Tensor] = {}
        for spec in self.outputs:
            shape = spec.resolve(sizes)
            if shape is None:
                binding.bind_output(spec.name, *place)
                continue
            empty = torch.empty(shape, dtype=spec.torch_dtype, device=self.device)
            out = outputs[spec.name] = self._kept.setdefault(spec.name, empty) if replay else empty
            binding.bind_output(spec.name, *place, _numpy(out), shape, out.data_ptr())
        # The session has a stream of its own: what torch still computes must be there before it starts.
        if self.device.type == 'cuda':
            torch.cuda.current_stream(self.device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions share no base class of their own
            raise BackendError(f'{self._engine}: ONNX Runtime failed: {error}') from error
        binding.synchronize_outputs()
        for spec, value in zip(self.outputs, binding.get_outputs(), strict=True):
            if spec.name not in outputs:
                outputs[spec.name] = torch.from_dlpack(value).to(spec.torch_dtype, copy=True)
        return {spec.name: outputs[spec.name].clone() if replay else outputs[spec.name] for spec in self.outputs}


def _numpy(tensor: torch.Tensor) -> Any:
    """NumPy's name of the tensor's type."""
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype
