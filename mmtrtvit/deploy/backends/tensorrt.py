"""TensorRT 10 and 11 and TensorRT-RTX: one adapter, which asks the library what it has (``hasattr``).

TensorRT-RTX builds without a GPU; that path runs in the tests. TensorRT 10 and 11 need a GPU of the kind they
build for: their path follows the documented Python API, is tested against a recording of it, and was not run on
hardware by the authors. ``tools/check_tensorrt.py`` runs the whole matrix where a GPU is at hand.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

from mmtrtvit.deploy.backends.base import Backend, Built, Runner
from mmtrtvit.deploy.backends.graph import GraphFacts
from mmtrtvit.deploy.backends.options import BuildOptions, LoadOptions
from mmtrtvit.deploy.backends.tally import Tally
from mmtrtvit.deploy.backends.tensorrt_api import (
    Cancellation,
    inspector_tally,
    make_logger,
    make_monitor,
    network_tally,
    run_cancellable,
    tensor_dtype,
)
from mmtrtvit.deploy.backends.trtexec import trtexec_line
from mmtrtvit.deploy.backends.types import Availability, BackendError, MissingPartError, Progress, TensorSpec
from mmtrtvit.fileio import atomic_write_bytes

__all__ = ['RTX_CAPABILITIES', 'TensorRTBackend', 'TensorRTRTXBackend']

#: GPUs that one portable TensorRT-RTX engine serves, by its documentation: Ampere, Ada and Blackwell.
RTX_CAPABILITIES = ('8.0', '8.6', '8.9', '12.0')
_LISTED = f'it lists compute capability {", ".join(RTX_CAPABILITIES)} and later'

_COMMON = frozenset({
    'precision', 'min_precision_share', 'optimization_level', 'workspace_mib', 'version_compatible', 'profiling',
    'batch', 'shapes', 'tf32',
})  # fmt: skip
_HINTS = {
    'NonMaxSuppression': "export with nms form 'static' instead of 'onnx'",
    'NonZero': 'its output has no fixed shape; express it with masks and TopK',
    'RoiAlign': "export with roi_align form 'static' instead of 'onnx'",
    'TopK': 'K may be 3840 at most',
    'libnvinfer_lean': 'this package of the library brings no lean runtime: leave BuildOptions.version_compatible out',
    'workspace limit': 'give more in BuildOptions.workspace_mib, or set no limit',
    'Attention': 'in fp32 export it decomposed into MatMul and Softmax',
}
Shapes = dict[str, tuple[tuple[int, ...], ...]]


@functools.cache
def _find_module(names: tuple[str, ...]) -> tuple[Any, str]:
    """The first module that imports, or None and why the last that is there does not."""
    why = ''
    for name in names:
        try:
            return importlib.import_module(name), ''
        except ModuleNotFoundError as error:
            why = why or ('' if error.name == name else str(error))
        except Exception as error:  # a library of the driver is missing, or the wrong one is found
            why = f'import {name} failed: {error}'
    return None, why


class TensorRTBackend(Backend):
    """TensorRT 10 and 11.

    Args:
        api: The TensorRT module; None to import it.
    """

    name = 'tensorrt'
    engine_suffix = '.engine'
    build_fields = _COMMON | {'timing_cache', 'hardware_compatible', 'max_aux_streams'}
    load_fields = frozenset({'check_finite', 'cuda_graph'})
    title: ClassVar[str] = 'TensorRT'
    modules: ClassVar[tuple[str, ...]] = ('tensorrt',)
    install: ClassVar[str] = "pip install 'mmtrtvit[tensorrt]'"
    rtx: ClassVar[bool] = False

    def __init__(self, api: Any = None) -> None:
        self._api, self._why = (api, '') if api is not None else _find_module(self.modules)

    def availability(self) -> Availability:
        """TensorRT builds and runs on a GPU only."""
        missing = self._missing()
        if missing:
            return Availability('', missing, missing)
        if torch.cuda.is_available():
            return Availability(str(self._api.__version__))
        build = (
            f'{self.title} builds on the GPU it builds for, and this machine has none that PyTorch sees: build there'
        )
        return Availability(str(self._api.__version__), f'{build}, or use tensorrt-rtx', self._needs_gpu())

    def _missing(self) -> str:
        if self._api is not None:
            return ''
        return f'{self.title} cannot be imported ({self._why}): {self.install}' if self._why else (
            f'{self.title} is not installed: {self.install}'
        )  # fmt: skip

    def _needs_gpu(self) -> str:
        return f'running a {self.title} engine needs an NVIDIA GPU with its driver, and PyTorch sees none here'

    def _build(
        self,
        onnx: Path,
        partial: Path,
        engine: Path,
        facts: GraphFacts,
        options: BuildOptions,
        progress: Progress | None,
    ) -> Built:
        api = self._api
        logger = make_logger(api)
        builder = api.Builder(logger)
        network = builder.create_network(_network_flags(api))
        parser = api.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx)):
            reasons = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(self._refusal(onnx, 'cannot parse the graph', reasons or logger.errors, facts))
        tally = network_tally(network, facts.by_design)
        config = builder.create_builder_config()
        profiles = self._configure(builder, network, config, options, onnx)
        cancellation = Cancellation()
        if hasattr(config, 'progress_monitor'):
            config.progress_monitor = make_monitor(api, progress, cancellation)
        self._read_timing_cache(config, options)
        work: Callable[[], Any] = lambda: builder.build_serialized_network(network, config)  # noqa: E731
        serialized = run_cancellable(work, cancellation)
        if serialized is None:
            missing = any('Unable to load library' in text for text in logger.errors)
            kind = MissingPartError if missing else BackendError
            raise kind(self._refusal(onnx, 'cannot build an engine', logger.errors, facts))
        partial.write_bytes(memoryview(serialized))
        self._write_timing_cache(config, options)
        inspected, note = self._inspect(serialized, logger, options, facts.by_design)
        inputs = tuple(_spec(network.get_input(index)) for index in range(network.num_inputs))
        outputs = tuple(_spec(network.get_output(index)) for index in range(network.num_outputs))
        cuda = torch.cuda.is_available()
        return Built(
            tally=inspected or tally,
            inputs=inputs,
            outputs=outputs,
            gpu=torch.cuda.get_device_name() if cuda else '',
            compute_capability='.'.join(map(str, torch.cuda.get_device_capability())) if cuda else '',
            trtexec=self._line(options, onnx, engine, profiles),
            warnings=(*note, *logger.warnings[:20]),
        )

    def _line(self, options: BuildOptions, onnx: Path, engine: Path, profiles: Shapes) -> str:
        typed = str(self._api.__version__).partition('.')[0] == '10'
        return trtexec_line(options, onnx, engine, rtx=self.rtx, profiles=profiles, strongly_typed=typed)

    def _refusal(self, onnx: Path, what: str, reasons: list[str], facts: GraphFacts) -> str:
        told = '; '.join(dict.fromkeys(reasons[:3])) or 'it gave no reason'
        hints = [f'{kind}: {hint}' for kind, hint in _HINTS.items() if kind in told or f'{kind.upper()}' in told]
        if not hints and self.rtx:
            absent = [kind for kind in ('NonMaxSuppression', 'NonZero', 'RoiAlign') if kind in facts.nodes_by_type]
            hints = [f'{kind}: {_HINTS[kind]}' for kind in absent]
        way_out = '; '.join(hints) or 'change what it names; the whole log comes at the logging level DEBUG'
        return f'{onnx}: {self.title} {self._api.__version__} {what}: {told}. Way out: {way_out}'

    def _configure(self, builder: Any, network: Any, config: Any, options: BuildOptions, onnx: Path) -> Shapes:
        """Set what the options ask; return the shapes of dynamic inputs."""
        api = self._api
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        config.profiling_verbosity = {
            'none': api.ProfilingVerbosity.NONE,
            'layer_names': api.ProfilingVerbosity.LAYER_NAMES_ONLY,
            'detailed': api.ProfilingVerbosity.DETAILED,
        }[options.profiling]
        if options.version_compatible:
            config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        if not options.tf32:
            config.clear_flag(api.BuilderFlag.TF32)
        if options.max_aux_streams is not None:
            config.max_aux_streams = options.max_aux_streams
        self._configure_hardware(config, options)
        profiles = _profiles(network, options, onnx)
        if profiles:
            profile = builder.create_optimization_profile()
            for name, bounds in profiles.items():
                profile.set_shape(name, *bounds)
            config.add_optimization_profile(profile)
        return profiles

    def _configure_hardware(self, config: Any, options: BuildOptions) -> None:
        if options.hardware_compatible == 'none':
            return
        level = options.hardware_compatible.upper()
        if not hasattr(self._api.HardwareCompatibilityLevel, level):
            version = self._api.__version__
            raise BackendError(
                f'BuildOptions.hardware_compatible={options.hardware_compatible!r}: {self.title} {version} does not '
                "have it: use 'ampere_plus' or 'none'"
            )
        config.hardware_compatibility_level = getattr(self._api.HardwareCompatibilityLevel, level)

    def _read_timing_cache(self, config: Any, options: BuildOptions) -> None:
        if options.timing_cache is None:
            return
        path = Path(options.timing_cache)
        content = path.read_bytes() if path.is_file() else b''
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            raise BackendError(
                f'BuildOptions.timing_cache: {path} is not a timing cache of this GPU and version: remove it'
            )

    def _write_timing_cache(self, config: Any, options: BuildOptions) -> None:
        if options.timing_cache is not None and (cache := config.get_timing_cache()) is not None:
            atomic_write_bytes(options.timing_cache, memoryview(cache.serialize()))

    def _inspect(
        self, serialized: Any, logger: Any, options: BuildOptions, by_design: frozenset[str]
    ) -> tuple[Tally | None, tuple[str, ...]]:
        """What the engine itself says of its layers, where a GPU allows to ask."""
        if not torch.cuda.is_available():
            return None, ()
        runtime = self._api.Runtime(logger)
        if options.version_compatible and hasattr(runtime, 'engine_host_code_allowed'):
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            return None, ('the inspector was not read: the engine does not load on this GPU',)
        text = engine.create_engine_inspector().get_engine_information(self._api.LayerInformationFormat.JSON)
        tally = inspector_tally(text, by_design)
        if tally is None:
            note = (
                'the inspector does not tell the precision of layers, or of which: the parsed network was read instead'
            )
            return None, (note,)
        return tally, ()

    def _check_device(self, device: torch.device, options: LoadOptions) -> None:
        if device.type != 'cuda':
            raise BackendError(f"device='cpu': {self.title} engines run on NVIDIA GPUs only: give device='cuda'")

    def _load(self, engine: Path, device: torch.device, options: LoadOptions) -> Runner:
        from mmtrtvit.deploy.backends.tensorrt_run import TensorRTRunner

        return TensorRTRunner(self._api, self.title, engine, device, options)


class TensorRTRTXBackend(TensorRTBackend):
    """TensorRT for RTX. Builds with no GPU and no driver; one engine serves :data:`RTX_CAPABILITIES` and later."""

    name = 'tensorrt-rtx'
    build_fields = _COMMON | {'compute_capabilities'}
    load_fields = frozenset({'check_finite', 'cuda_graph', 'runtime_cache'})
    title = 'TensorRT-RTX'
    modules = ('tensorrt_rtx', 'tensorrt_rtx_bindings')
    install = "pip install 'mmtrtvit[rtx]'"
    rtx = True

    def availability(self) -> Availability:
        """RTX builds anywhere and runs on a GPU of its list."""
        missing = self._missing()
        if missing:
            return Availability('', missing, missing)
        version = str(self._api.__version__)
        if not torch.cuda.is_available():
            return Availability(version, '', self._needs_gpu())
        major, minor = torch.cuda.get_device_capability()
        here = f'{torch.cuda.get_device_name()} has compute capability {major}.{minor}, TensorRT-RTX: {_LISTED}'
        if (major, minor) < (8, 0):
            return Availability(version, '', here)
        return Availability(version, doubt='' if f'{major}.{minor}' in RTX_CAPABILITIES else here)

    def _needs_gpu(self) -> str:
        return f'{super()._needs_gpu()}; {_LISTED}'

    def _check_options(self, options: BuildOptions) -> None:
        for value in options.compute_capabilities:
            self._capability(value)

    def _refuse_unknown(self, options: BuildOptions | LoadOptions, known: frozenset[str]) -> None:
        if isinstance(options, BuildOptions) and options.timing_cache is not None:
            raise BackendError(
                f'BuildOptions.timing_cache={options.timing_cache!r}: TensorRT-RTX measures nothing while it builds '
                'and has no timing cache: leave it out'
            )
        if isinstance(options, BuildOptions) and options.hardware_compatible != 'none':
            raise BackendError(
                f'BuildOptions.hardware_compatible={options.hardware_compatible!r}: a TensorRT-RTX engine is portable '
                'already: leave it out, or name its GPUs in compute_capabilities'
            )
        super()._refuse_unknown(options, known)

    def _capability(self, value: str) -> Any:
        members = self._api.ComputeCapability
        name = 'SM' + value.replace('.', '')
        if not hasattr(members, name):
            known = [f'{key[2:-1]}.{key[-1]}' for key in members.__members__ if key.startswith('SM')]
            allowed = ', '.join(sorted(known, key=float))
            raise BackendError(f'BuildOptions.compute_capabilities={value!r}: must be of {allowed}, or none at all')
        return getattr(members, name)

    def _configure_hardware(self, config: Any, options: BuildOptions) -> None:
        # 0 means the portable engine; CURRENT would ask a GPU.
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, value in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(self._capability(value), index):
                raise BackendError(f'BuildOptions.compute_capabilities={value!r}: TensorRT-RTX refuses it')


def _network_flags(api: Any) -> int:
    # Strongly typed: the graph's types are the engine's. TensorRT 11 and RTX know nothing else.
    flags = api.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, 'STRONGLY_TYPED') else 0


def _parser_error(error: Any) -> str:
    node = error.node_name() if hasattr(error, 'node_name') else ''
    operator = error.node_operator() if hasattr(error, 'node_operator') else ''
    where = f'node {node or "without a name"} ({operator}): ' if node or operator else ''
    return f'{where}{error.desc()}'.strip()


def _profiles(network: Any, options: BuildOptions, onnx: Path) -> Shapes:
    profiles: Shapes = {}
    static = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            static.append(tensor.name)
        elif tensor.name in options.shapes:
            profiles[tensor.name] = tuple(tuple(bound) for bound in options.shapes[tensor.name])
            fits = all(len(bound) == len(shape) for bound in profiles[tensor.name]) and all(
                size in (-1, found) for bound in profiles[tensor.name] for size, found in zip(shape, bound, strict=True)
            )
            if not fits:
                raise BackendError(f'BuildOptions.shapes[{tensor.name!r}]: {onnx} has the shape {shape}, -1 being free')
        elif options.batch is not None and -1 not in shape[1:]:
            profiles[tensor.name] = tuple((size, *shape[1:]) for size in options.batch)
        else:
            raise BackendError(
                f'{onnx}: input {tensor.name!r} has the dynamic shape {shape}: give its bounds in BuildOptions.shapes, '
                'or BuildOptions.batch where only the first dimension is dynamic'
            )
    unknown = [name for name in options.shapes if name not in profiles]
    if unknown:
        raise BackendError(f'BuildOptions.shapes[{unknown[0]!r}]: {onnx} has no dynamic input of that name')
    if options.batch is not None and not profiles:
        raise BackendError(f'BuildOptions.batch={options.batch}: {onnx} has no dynamic input: leave it out')
    return profiles


def _spec(tensor: Any) -> TensorSpec:
    names = [
        tensor.get_dimension_name(axis) or f'{tensor.name}_{axis}' if size < 0 else size
        for axis, size in enumerate(tensor.shape)
    ]
    return TensorSpec(tensor.name, tensor_dtype(tensor.dtype), tuple(names))
