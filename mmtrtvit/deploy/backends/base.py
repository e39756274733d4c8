"""One interface over all backends: ``build(onnx) -> engine file``, ``load(file) -> runner``, ``runner(feed)``.

Example:
    >>> backend = get_backend('onnxruntime')
    >>> backend.build('end2end.onnx', 'model.onnx')
    >>> with backend.load('model.onnx', require_card=False) as runner:
    ...     scores = runner({'image': image})['scores']
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import torch

from mmtrtvit.deploy.backends.card import read_card, verify_card
from mmtrtvit.deploy.backends.graph import GraphFacts, read_graph
from mmtrtvit.deploy.backends.options import BuildOptions, BuildReport, LoadOptions
from mmtrtvit.deploy.backends.tally import Tally, check_precision
from mmtrtvit.deploy.backends.types import Availability, BackendError, LayerCost, Progress, TensorSpec
from mmtrtvit.fileio import atomic_path

__all__ = [
    'Availability',
    'Backend',
    'BackendError',
    'BuildOptions',
    'BuildReport',
    'Built',
    'LayerCost',
    'LoadOptions',
    'Progress',
    'Runner',
    'TensorSpec',
    'find_device',
]


class Runner(ABC):
    """A loaded engine: tensors in, tensors out.

    Attributes:
        inputs: What it takes.
        outputs: What it gives.
        device: Where its tensors live. Inputs elsewhere are copied there, outputs stay there.
    """

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], device: torch.device, check_finite: bool
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.device = device
        self.check_finite = check_finite
        self._closed = False

    def __call__(self, feed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the engine once.

        Args:
            feed: Input name -> tensor of the right type and shape; a non-contiguous one is fine.

        Returns:
            Output name -> tensor on :attr:`device`, the caller's own.

        Raises:
            BackendError: An input is missing, unknown, of another type or shape, or not finite; or the engine
                failed.
        """
        return self._run(*self._checked(feed))

    @abstractmethod
    def _run(self, feed: dict[str, torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        """Run on checked, contiguous tensors on the device; ``sizes`` are the dynamic dimensions by name."""

    @abstractmethod
    def profile(self, feed: Mapping[str, torch.Tensor], runs: int = 10) -> list[LayerCost]:
        """Layers by falling cost, mean of ``runs`` runs after one that is thrown away; empty where not told."""

    def close(self) -> None:
        """Give the engine's memory back; calling it twice is fine."""
        self._closed = True

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, feed: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        if self._closed:
            raise BackendError('the engine is closed: load it again')
        names = [spec.name for spec in self.inputs]
        missing = [name for name in names if name not in feed]
        unknown = [name for name in feed if name not in names]
        if missing or unknown:
            wrong = f'input {missing[0]!r} is missing' if missing else f'{unknown[0]!r} is no input of it'
            raise BackendError(f'{wrong}: the engine takes {", ".join(map(str, self.inputs))}')
        sizes: dict[str, int] = {}
        return {spec.name: self._checked_tensor(spec, feed[spec.name], sizes) for spec in self.inputs}, sizes

    def _checked_tensor(self, spec: TensorSpec, tensor: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        if not isinstance(tensor, torch.Tensor):
            raise BackendError(f'input {spec.name!r} is a {type(tensor).__name__}, not a torch.Tensor')
        if tensor.dtype != spec.torch_dtype:
            found = str(tensor.dtype).removeprefix('torch.')
            raise BackendError(f'input {spec.name!r} is {found}, the engine takes {spec}: convert it')
        fits = tensor.ndim == len(spec.shape)
        for found_size, size in zip(tensor.shape, spec.shape, strict=False):
            expected = sizes.setdefault(size, found_size) if isinstance(size, str) else size
            fits = fits and found_size == expected and found_size > 0
        if not fits:
            raise BackendError(
                f'input {spec.name!r} has the shape {tuple(tensor.shape)}, the engine takes {spec}: resize or pad it, '
                'or build an engine of that shape'
            )
        if self.check_finite and tensor.is_floating_point():
            _check_finite(spec, tensor)
        return tensor.detach().to(self.device).contiguous()


def _check_finite(spec: TensorSpec, tensor: torch.Tensor) -> None:
    # A finite sum proves finite summands at one pass without a temporary; only an overflow needs the second look.
    if not torch.isfinite(tensor.sum()) and not (finite := torch.isfinite(tensor)).all():
        where = tuple(int(index) for index in (~finite).nonzero()[0])
        raise BackendError(
            f'input {spec.name!r} has {float(tensor[where])} at {where} and {int((~finite).sum())} such values in all: '
            'look at what made it (a division by zero, an unread image)'
        )


class Built(NamedTuple):
    """What a backend's own builder hands to :meth:`Backend.build`."""

    tally: Tally
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gpu: str = ''
    compute_capability: str = ''
    trtexec: str = ''
    warnings: tuple[str, ...] = ()


class Backend(ABC):
    """A way to run a graph.

    Attributes:
        name: What :func:`~mmtrtvit.deploy.backends.get_backend` takes.
        engine_suffix: Suffix of its engine files.
        build_fields: The fields of :class:`BuildOptions` that it knows; another one set is refused.
        load_fields: The same of :class:`LoadOptions`.
    """

    name: ClassVar[str]
    engine_suffix: ClassVar[str]
    build_fields: ClassVar[frozenset[str]] = frozenset({'precision', 'min_precision_share'})
    load_fields: ClassVar[frozenset[str]] = frozenset({'check_finite'})

    @abstractmethod
    def availability(self) -> Availability:
        """What can be done with it on this machine."""

    def build(
        self,
        onnx: str | os.PathLike[str],
        engine: str | os.PathLike[str],
        options: BuildOptions | None = None,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Build an engine; an interrupted or failed build leaves ``engine`` as it was.

        Args:
            onnx: The graph.
            engine: The file to write.
            options: How; None for the defaults.
            progress: Called with phase, step and steps, possibly from another thread.

        Raises:
            BackendError: The graph cannot be read or built, or is not in the precision asked for.
            OSError: The file could not be written (disk full ...).
            KeyboardInterrupt: The build was cancelled.
        """
        options = options or BuildOptions()
        started = time.perf_counter()
        available = self.availability()
        if not available.can_build:
            raise BackendError(f'{self.name}: cannot build {engine}: {available.no_build}')
        self.check_build(options)
        facts = read_graph(Path(onnx))
        graph = Tally('graph', facts.nodes, facts.nodes_by_type, facts.products, facts.floats)
        check_precision(graph, options, str(onnx), self.name)
        with atomic_path(engine) as partial:
            built = self._build(Path(onnx), partial, Path(engine), facts, options, progress)
            check_precision(built.tally, options, str(onnx), self.name)
            size = partial.stat().st_size
            if size == 0:
                raise BackendError(f'{engine}: {self.name} wrote an empty engine: see its messages above')
        tally = built.tally
        return BuildReport(
            backend=self.name,
            version=available.version,
            engine=str(engine),
            engine_bytes=size,
            seconds=time.perf_counter() - started,
            inputs=built.inputs,
            outputs=built.outputs,
            onnx_nodes=facts.nodes,
            opset=facts.opset,
            layers=tally.layers,
            layers_by_type=tally.by_type,
            layers_by_precision=tally.floats,
            precision_asked=options.precision,
            precision_obtained=tally.obtained,
            precision_share=tally.share(options.precision),
            float_share=tally.float_share(options.precision),
            precision_source=tally.source,
            gpu=built.gpu,
            compute_capability=built.compute_capability,
            trtexec=built.trtexec,
            warnings=built.warnings,
        )

    def load(
        self,
        engine: str | os.PathLike[str],
        device: str | torch.device = 'cpu',
        *,
        require_card: bool = True,
        options: LoadOptions | None = None,
    ) -> Runner:
        """Load an engine.

        Args:
            engine: The file.
            device: Where it is to run.
            require_card: Refuse an engine without its card. A card that is there is verified either way.
            options: How; None for the defaults.

        Raises:
            BackendError: The file is missing, damaged or foreign, does not fit this machine or library, or its
                card says that it is another one.
        """
        options = options or LoadOptions()
        path = Path(engine)
        if not path.is_file():
            raise BackendError(f'{path}: no such file: build the engine first')
        if path.stat().st_size == 0:
            raise BackendError(f'{path}: the file is empty: build the engine again')
        self._refuse_unknown(options, self.load_fields)
        available = self.availability()
        if not available.version:
            raise BackendError(f'{path}: cannot be loaded: {available.no_run or available.no_build}')
        target = find_device(device) if available.can_run else torch.device('cpu')
        self._verify(path, available.version, target, require_card)
        if not available.can_run:
            raise BackendError(f'{path}: cannot be run: {available.no_run}')
        self.check_load(options, target)
        return self._load(path, target, options)

    def check_build(self, options: BuildOptions) -> None:
        """Refuse options that this backend's builder does not have.

        Raises:
            BackendError: Names the option and what it may be.
        """
        self._refuse_unknown(options, self.build_fields)
        self._check_options(options)

    def check_load(self, options: LoadOptions, device: str | torch.device) -> None:
        """Refuse a device that is not there, or options that this backend's runner does not have there.

        Raises:
            BackendError: Names the device or the option and the way out.
        """
        self._refuse_unknown(options, self.load_fields)
        self._check_device(find_device(device), options)

    def _verify(self, path: Path, version: str, device: torch.device, require_card: bool) -> None:
        if not Path(f'{path}.json').exists():
            if not require_card:
                return
            try:
                read_card(path)
            except BackendError as error:
                hint = 'load it with require_card=False if you know that it fits this machine'
                raise BackendError(f'{error}, or {hint}') from None
        capability = '.'.join(map(str, torch.cuda.get_device_capability(device))) if device.type == 'cuda' else ''
        verify_card(path, read_card(path), backend=self.name, version=version, compute_capability=capability)

    def _refuse_unknown(self, options: BuildOptions | LoadOptions, known: frozenset[str]) -> None:
        plain: Any = type(options)()
        for entry in fields(options):
            value = getattr(options, entry.name)
            if entry.name not in known and value != getattr(plain, entry.name):
                owner = type(options).__name__
                raise BackendError(f'{owner}.{entry.name}={value!r}: {self.name} has no such option: leave it out')

    def _check_options(self, options: BuildOptions) -> None:  # noqa: B027  # most backends have nothing to add
        """Refuse what the fields alone allow but this backend does not."""

    def _check_device(self, device: torch.device, options: LoadOptions) -> None:  # noqa: B027  # most have no more
        """Refuse a device of the machine's that this backend does not run on."""

    @abstractmethod
    def _build(
        self,
        onnx: Path,
        partial: Path,
        engine: Path,
        facts: GraphFacts,
        options: BuildOptions,
        progress: Progress | None,
    ) -> Built:
        """Write the engine to ``partial``, which will be renamed to ``engine``."""

    @abstractmethod
    def _load(self, engine: Path, device: torch.device, options: LoadOptions) -> Runner:
        """Load a file that is there and whose card was verified."""


def find_device(device: str | torch.device) -> torch.device:
    """A device that is there, with its number.

    Raises:
        BackendError: It is misspelt, or this machine has none of that kind.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"device={device!r} is no device: give 'cpu', 'cuda' or 'cuda:0'") from error
    if found.type == 'cpu':
        return torch.device('cpu')
    if found.type != 'cuda':
        raise BackendError(f"device={device!r}: engines run on 'cpu' or 'cuda', not on {found.type!r}")
    if not torch.cuda.is_available():
        raise BackendError(f"device={device!r}: this machine has no CUDA GPU that PyTorch sees: use device='cpu'")
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= torch.cuda.device_count():
        raise BackendError(f'device={device!r}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0')
    return torch.device('cuda', index)
