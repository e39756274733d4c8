"""What one may ask of a builder and of a loader, and what a builder reports."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmtrtvit.deploy.backends.types import BackendError, TensorSpec

__all__ = ['MIN_PRECISION_SHARE', 'BuildOptions', 'BuildReport', 'LoadOptions']

PRECISIONS = ('fp32', 'fp16', 'int8')
PROFILING = ('none', 'layer_names', 'detailed')
HARDWARE = ('none', 'ampere_plus', 'same_compute_capability')
GRAPH_OPTIMIZATION = ('none', 'basic', 'extended', 'all')

#: The least share of convolutions and matrix products that must be in the asked precision. Half for fp16 and int8:
#: exact post-processing (suppression, RoI coordinates) keeps some small products in fp32 on purpose, and a first or
#: last layer often stays; an engine with fewer than half was not built as asked. All of them for fp32.
MIN_PRECISION_SHARE = {'fp32': 1.0, 'fp16': 0.5, 'int8': 0.5}


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is to be built. Fields that a backend has no use for must be left alone: it says so.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``. The ONNX graph carries it (casts, Q/DQ nodes); the backend
            verifies that graph and engine have it.
        min_precision_share: Share of convolutions and matrix products that must be in that precision;
            None for :data:`MIN_PRECISION_SHARE`.
        optimization_level: TensorRT's builder effort, 0 to 5; None for its default.
        workspace_mib: Scratch memory that a layer may use, in MiB; None for no limit.
        timing_cache: File with the timings of earlier builds, read and renewed (TensorRT; RTX measures nothing).
        version_compatible: The engine also loads in later versions of the library.
        hardware_compatible: ``none``, ``ampere_plus`` or ``same_compute_capability`` (TensorRT).
        compute_capabilities: Target GPUs, such as ``('8.6', '12.0')`` (RTX); empty for one portable engine.
        profiling: ``none``, ``layer_names`` or ``detailed``: what the engine tells about its layers.
            The inspector needs ``detailed`` to tell precisions.
        batch: Least, usual and largest first dimension of inputs with a dynamic one.
        shapes: Input name -> its least, usual and largest shape, where more than the batch is dynamic.
        tf32: Let fp32 products round their inputs to TensorFloat-32's 10 bits on GPUs that have it, which TensorRT
            does unless told otherwise. That moves boxes by more than fp32's tolerance here.
        max_aux_streams: CUDA streams beside the main one (TensorRT); None for the library's choice.
    """

    precision: str = 'fp32'
    min_precision_share: float | None = None
    optimization_level: int | None = None
    workspace_mib: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: str = 'none'
    compute_capabilities: tuple[str, ...] = ()
    profiling: str = 'detailed'
    batch: tuple[int, int, int] | None = None
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    tf32: bool = False
    max_aux_streams: int | None = None

    def __post_init__(self) -> None:
        _one_of(self, 'precision', PRECISIONS)
        _one_of(self, 'profiling', PROFILING)
        _one_of(self, 'hardware_compatible', HARDWARE)
        _whole(self, 'optimization_level', 0, 5)
        _whole(self, 'workspace_mib', 1, 1 << 22)
        _whole(self, 'max_aux_streams', 0, 64)
        _flag(self, 'version_compatible')
        _flag(self, 'tf32')
        share = self.min_precision_share
        if share is not None and not (_is_number(share) and 0 <= share <= 1):
            raise _wrong(self, 'min_precision_share', 'a number from 0 to 1, or None')
        if self.timing_cache is not None and not (isinstance(self.timing_cache, str) and self.timing_cache):
            raise _wrong(self, 'timing_cache', 'the name of a file, or None')
        self._check_capabilities()
        self._check_profile()

    def _check_capabilities(self) -> None:
        values = self.compute_capabilities
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
            raise _wrong(self, 'compute_capabilities', "a list of texts such as ['8.6', '12.0']")
        for value in values:
            major, _, minor = value.partition('.')
            if not (major.isdecimal() and minor.isdecimal()):
                raise _wrong(self, 'compute_capabilities', "texts such as '8.6' and '12.0'")
        if len(set(values)) != len(values):
            raise _wrong(self, 'compute_capabilities', 'each one once')
        object.__setattr__(self, 'compute_capabilities', tuple(values))

    def _check_profile(self) -> None:
        if self.batch is not None:
            batch = tuple(self.batch) if isinstance(self.batch, (list, tuple)) else ()
            if (
                len(batch) != 3
                or not all(_is_whole(size) for size in batch)
                or not 1 <= batch[0] <= batch[1] <= batch[2]
            ):
                raise _wrong(self, 'batch', 'three whole numbers, 1 <= least <= usual <= largest, or None')
            object.__setattr__(self, 'batch', batch)
        if not isinstance(self.shapes, Mapping):
            raise _wrong(self, 'shapes', "a dict such as {'image': ((1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 64, 64))}")
        for name, bounds in self.shapes.items():
            shapes = [tuple(shape) for shape in bounds]
            if len(shapes) != 3 or len({len(shape) for shape in shapes}) != 1:
                raise _wrong(self, f'shapes[{name!r}]', 'three shapes of one length: least, usual, largest', bounds)
            for sizes in zip(*shapes, strict=True):
                if not all(_is_whole(size) for size in sizes) or not 0 < sizes[0] <= sizes[1] <= sizes[2]:
                    raise _wrong(self, f'shapes[{name!r}]', 'whole numbers with 0 < least <= usual <= largest', bounds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildOptions:
        """Options from a config's dict.

        Raises:
            BackendError: A key is unknown or a value is not allowed; names it and what is.
        """
        _known_keys(cls, values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; :meth:`from_dict` reads it."""
        return asdict(self)

    @property
    def least_share(self) -> float:
        """The share of layers below which a build is refused."""
        return MIN_PRECISION_SHARE[self.precision] if self.min_precision_share is None else self.min_precision_share


@dataclass(frozen=True)
class LoadOptions:
    """How an engine is to be run.

    Attributes:
        check_finite: Refuse NaN and infinity in floating inputs. Costs one sum over the tensor, on a GPU also a
            wait for it.
        cuda_graph: Record the launches once and replay them (CUDA devices).
        threads: CPU threads of ONNX Runtime; None for its choice, which is every physical core.
        graph_optimization: ONNX Runtime's level: ``none``, ``basic``, ``extended`` or ``all``.
        runtime_cache: Keep TensorRT-RTX's compiled kernels beside the engine, for a faster second start.
    """

    check_finite: bool = True
    cuda_graph: bool = False
    threads: int | None = None
    graph_optimization: str = 'all'
    runtime_cache: bool = True

    def __post_init__(self) -> None:
        for name in ('check_finite', 'cuda_graph', 'runtime_cache'):
            _flag(self, name)
        _whole(self, 'threads', 1, 1024)
        _one_of(self, 'graph_optimization', GRAPH_OPTIMIZATION)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoadOptions:
        """Options from a config's dict; see :meth:`BuildOptions.from_dict`."""
        _known_keys(cls, values)
        return cls(**values)


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        backend: Name of the backend.
        version: Of its library.
        engine: The file.
        engine_bytes: Its size.
        seconds: Time of the build, from reading the graph to the file.
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        onnx_nodes: Nodes of the graph.
        opset: Of the graph.
        layers: Layers after the parser (``network``), in the engine (``inspector``) or nodes (``graph``).
        layers_by_type: How many of each type.
        layers_by_precision: How many of those that count (see :mod:`mmtrtvit.deploy.backends.tally`).
        precision_asked: As in the options.
        precision_obtained: The precision that most convolutions and matrix products have.
        precision_share: Share of convolutions and matrix products in the asked precision, 0 to 1.
        float_share: Share of all layers that compute floating numbers in the asked precision, 0 to 1.
        precision_source: What was read: ``inspector`` (the engine), ``network`` (the parsed network, which is
            strongly typed) or ``graph`` (the ONNX file).
        gpu: Name of the GPU it was built on, or empty.
        compute_capability: Of that GPU, such as ``9.0``, or empty.
        trtexec: The equivalent command line, or empty.
        warnings: What the library warned of.
    """

    backend: str
    version: str
    engine: str
    engine_bytes: int
    seconds: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    onnx_nodes: int
    opset: int
    layers: int
    layers_by_type: dict[str, int]
    layers_by_precision: dict[str, int]
    precision_asked: str
    precision_obtained: str
    precision_share: float
    float_share: float
    precision_source: str
    gpu: str = ''
    compute_capability: str = ''
    trtexec: str = ''
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {
            'inputs': [spec.to_dict() for spec in self.inputs],
            'outputs': [spec.to_dict() for spec in self.outputs],
            'warnings': list(self.warnings),
        }


def _wrong(owner: object, name: str, allowed: str, value: object = None) -> BackendError:
    found = getattr(owner, name) if value is None and hasattr(owner, name) else value
    return BackendError(f'{type(owner).__name__}.{name}={found!r}: must be {allowed}')


def _one_of(owner: object, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(owner, name) not in allowed:
        raise _wrong(owner, name, 'one of ' + ', '.join(repr(value) for value in allowed))


def _whole(owner: object, name: str, least: int, largest: int) -> None:
    value = getattr(owner, name)
    if value is not None and not (_is_whole(value) and least <= value <= largest):
        raise _wrong(owner, name, f'a whole number from {least} to {largest}, or None')


def _flag(owner: object, name: str) -> None:
    if not isinstance(getattr(owner, name), bool):
        raise _wrong(owner, name, 'True or False')


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _known_keys(cls: type, values: Mapping[str, Any]) -> None:
    known = [entry.name for entry in fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else '.'
            raise BackendError(f'{cls.__name__}: {key!r} is none of its fields{hint} They are: {", ".join(known)}')
