"""Running a TensorRT or TensorRT-RTX engine on torch's GPU memory: nothing passes through the host.

Written against the documented Python API and tested against a recording of it; not run on hardware by the authors.

An engine file is a program: load only one that you built or trust.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmtrtvit.deploy.backends.base import Runner
from mmtrtvit.deploy.backends.options import LoadOptions
from mmtrtvit.deploy.backends.tensorrt_api import make_logger, tensor_dtype
from mmtrtvit.deploy.backends.types import BackendError, LayerCost, TensorSpec, costs_by_share
from mmtrtvit.fileio import atomic_write_bytes

__all__ = ['TensorRTRunner', 'runtime_cache_path']

#: Bytes; what ``cudaMalloc`` gives, and so what kernels may count on (CUDA C++ Programming Guide, device memory).
_ALIGNMENT = 256


def runtime_cache_path(engine: Path) -> Path:
    """Where TensorRT-RTX's compiled kernels are kept: ``<engine file>.cache``."""
    return Path(f'{engine}.cache')


class TensorRTRunner(Runner):
    """A loaded engine with one execution context.

    CUDA graphs: RTX captures by itself (``cuda_graph_strategy``); TensorRT's launches are captured with torch's
    graph. Both replay on fixed memory, so inputs are copied in and outputs copied out on the GPU; torch's graph needs
    static shapes.

    Args:
        api: The TensorRT module.
        title: ``TensorRT`` or ``TensorRT-RTX``, for messages.
        engine: The file.
        device: The GPU.
        options: How to run.

    Raises:
        BackendError: The library does not load the engine.
    """

    def __init__(self, api: Any, title: str, engine: Path, device: torch.device, options: LoadOptions) -> None:
        self._api, self._title, self._path = api, title, engine
        self._logger = make_logger(api)
        with torch.cuda.device(device):
            self._runtime = api.Runtime(self._logger)
            self._cache: Any = None
            self._native_graph = False
            if hasattr(self._runtime, 'engine_host_code_allowed'):
                self._runtime.engine_host_code_allowed = True  # version-compatible engines carry their runtime
            self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
            if self._engine is None:
                raise BackendError(self._failure('does not load the engine', 'build it again on this machine'))
            self._context = self._make_context(options)
        if self._context is None:
            raise BackendError(self._failure('makes no execution context', 'free GPU memory or use a smaller engine'))
        inputs, outputs = _io_specs(api, self._engine)
        super().__init__(inputs, outputs, device, options.check_finite)
        dynamic = [spec for spec in (*inputs, *outputs) if spec.dynamic]
        if options.cuda_graph and not self._native_graph and dynamic:
            raise BackendError(f'{engine}: LoadOptions.cuda_graph=True needs static shapes, but there is {dynamic[0]}')
        self._replays = options.cuda_graph and not dynamic
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: dict[str, torch.Tensor] = {}
        self._stream = torch.cuda.Stream(device)

    def _make_context(self, options: LoadOptions) -> Any:
        """An execution context; on RTX with its own CUDA graphs and the runtime cache that it fills."""
        if not hasattr(self._engine, 'create_runtime_config'):
            return self._quiet(self._engine.create_execution_context())
        config = self._engine.create_runtime_config()
        if options.cuda_graph and hasattr(config, 'cuda_graph_strategy'):
            config.cuda_graph_strategy = self._api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._native_graph = True
        if options.runtime_cache and hasattr(config, 'create_runtime_cache'):
            if self._cache is None:
                self._cache = self._read_cache(config)
            config.set_runtime_cache(self._cache)
        return self._quiet(self._engine.create_execution_context(config))

    def _read_cache(self, config: Any) -> Any:
        cache = config.create_runtime_cache()
        path = runtime_cache_path(self._path)
        if path.is_file():
            cache.deserialize(path.read_bytes())  # False: of another driver or GPU; it is filled anew
        return cache

    def _quiet(self, context: Any) -> Any:
        """Without the marks for profilers that engines with detailed layers set in every run: they take time."""
        if context is not None and hasattr(context, 'nvtx_verbosity'):
            context.nvtx_verbosity = self._api.ProfilingVerbosity.NONE
        return context

    def _failure(self, what: str, way_out: str) -> str:
        told = '; '.join(dict.fromkeys(self._logger.errors[:3])) or 'it gave no reason'
        return f'{self._path}: {self._title} {self._api.__version__} {what}: {told}. Way out: {way_out}'

    def _run(self, feed: dict[str, torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        with torch.cuda.device(self.device):
            return self._replay(feed) if self._replays else self._enqueue(feed)

    def _bind(self, feed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tell the context where inputs lie, and give it fresh outputs."""
        for spec in self.inputs:
            tensor = feed[spec.name]
            if not self._context.set_input_shape(spec.name, tuple(tensor.shape)):
                raise BackendError(
                    f'input {spec.name!r} has the shape {tuple(tensor.shape)}, outside the bounds that {self._path} '
                    'was built for: build it with other bounds (BuildOptions.batch, shapes)'
                )
            self._place(spec.name, tensor)
        outputs = {}
        for spec in self.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if -1 in shape:
                raise BackendError(
                    f'{self._path}: output {spec.name!r} has a shape that depends on values: not supported'
                )
            outputs[spec.name] = torch.empty(shape, dtype=spec.torch_dtype, device=self.device)
            self._place(spec.name, outputs[spec.name])
        return outputs

    def _place(self, name: str, tensor: torch.Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise BackendError(self._failure(f'does not take the memory of {name!r}', 'look at the message'))

    def _execute(self, stream: Any) -> None:
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise BackendError(self._failure('failed to run', 'look at the message'))

    @contextmanager
    def _side_stream(self) -> Iterator[torch.cuda.Stream]:
        """The caller's stream; for the default one, which TensorRT would wait for all around, one of our own."""
        current = torch.cuda.current_stream(self.device)
        if current != torch.cuda.default_stream(self.device):
            yield current
            return
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield self._stream
        current.wait_stream(self._stream)

    def _enqueue(self, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        feed = {name: _aligned(tensor) for name, tensor in feed.items()}
        outputs = self._bind(feed)
        with self._side_stream() as stream:
            self._execute(stream)
            for tensor in (*feed.values(), *outputs.values()):
                tensor.record_stream(stream)  # else the allocator may hand it out while the engine still uses it
        return outputs

    def _replay(self, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._static:
            self._record(feed)
        with self._side_stream() as stream:
            for name, tensor in feed.items():
                self._static[name].copy_(tensor)
                tensor.record_stream(stream)
            if self._graph is None:  # RTX, which replays what it captured at the first run
                self._execute(stream)
            else:
                self._graph.replay()
            return {spec.name: self._static[spec.name].clone() for spec in self.outputs}

    def _record(self, feed: dict[str, torch.Tensor]) -> None:
        static = {name: tensor.clone() for name, tensor in feed.items()}
        static.update(self._bind(static))
        if not self._native_graph:
            with self._side_stream() as stream:
                self._execute(stream)  # the first run allocates and may synchronise, which a capture must not
                stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # torch's own stream for captures is of the device that was current at the first one
            with torch.cuda.graph(graph, stream=self._stream):
                self._execute(self._stream)
            self._graph = graph
        self._static = static

    def profile(self, feed: Mapping[str, torch.Tensor], runs: int = 10) -> list[LayerCost]:
        """Layers by cost, from TensorRT's profiler; the engine runs slower than without it."""
        checked, _ = self._checked(feed)
        profiler = _make_profiler(self._api)
        with torch.cuda.device(self.device):
            context = self._make_context(LoadOptions(runtime_cache=self._cache is not None))
            context.profiler = profiler
            plain, self._context = self._context, context
            try:
                for run in range(runs + 1):
                    self._enqueue(checked)
                    torch.cuda.synchronize(self.device)
                    if run == 0:
                        profiler.times.clear()
            finally:
                self._context = plain
        return costs_by_share({name: ('', spent / runs) for name, spent in profiler.times.items()})

    def close(self) -> None:
        """Keep what was compiled (RTX), and free engine and context."""
        if not self._closed and self._cache is not None:
            self._save_cache()
        super().close()
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._graph, self._static = None, {}
        self._context = self._cache = self._engine = self._runtime = None

    def _save_cache(self) -> None:
        with torch.cuda.device(self.device):
            content = self._cache.serialize()
        blob = b'' if content is None else bytes(memoryview(content))
        path = runtime_cache_path(self._path)
        try:
            if blob and not (path.is_file() and path.read_bytes() == blob):
                atomic_write_bytes(path, blob)
        except OSError as error:  # a cache is a convenience: a read-only folder must not fail a run
            self._logger.warnings.append(str(error))


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy where it begins in the middle of its memory (a slice): engines load many bytes at once."""
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def _io_specs(api: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape: list[int | str] = [int(size) for size in engine.get_tensor_shape(name)]
        named = tuple(f'{name}_{axis}' if size == -1 else size for axis, size in enumerate(shape))
        spec = TensorSpec(name, tensor_dtype(engine.get_tensor_dtype(name)), named)
        (inputs if engine.get_tensor_mode(name) == api.TensorIOMode.INPUT else outputs).append(spec)
    return tuple(inputs), tuple(outputs)


def _make_profiler(api: Any) -> Any:
    """An ``IProfiler`` that sums the milliseconds of each layer in ``times``."""

    class Profiler(api.IProfiler):
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + ms

    return Profiler()
