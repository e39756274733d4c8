"""What of TensorRT works on this machine: builds and runs small graphs, compares with ONNX Runtime, prints a table.

Run by ``tools/check_tensorrt.py``. Where there is no GPU or no library, what can be done is done (TensorRT-RTX
builds anywhere) and the rest is marked as not run, with its reason.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmtrtvit.deploy.backends import Backend, BackendError, BuildOptions, LoadOptions, get_backend
from mmtrtvit.deploy.backends.check_graphs import PROBES, make_probe, probe_feed, to_fp16, to_int8
from mmtrtvit.deploy.backends.types import MissingPartError

__all__ = ['CheckResult', 'check_backend', 'machine', 'markdown_table']

#: Largest difference from ONNX Runtime's fp32, relative to the largest value. fp32 runs without TF32; fp16 keeps 11
#: bits and sums a few hundred products; int8 keeps 8.
TOLERANCES = {'fp32': 1e-4, 'fp16': 1e-2, 'int8': 1e-1}
#: Which graphs are tried in which precision: coordinates and indices stay in fp32 in our models.
PRECISIONS = {'fp32': tuple(PROBES), 'fp16': ('convolution', 'attention'), 'int8': ('convolution',)}
_RUNS = 50


@dataclass(frozen=True)
class CheckResult:
    """One line of the table.

    Attributes:
        backend: Name of the backend.
        step: What was tried.
        status: ``ok``, ``FAILED`` or ``not run``.
        detail: Numbers, or the reason.
    """

    backend: str
    step: str
    status: str
    detail: str


class _DifferentError(BackendError):
    """An engine ran and gave other numbers."""


class _Check:
    """The steps for one backend, in a folder of its own."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend, self.folder = backend, folder
        self.results: list[CheckResult] = []
        self.available = backend.availability()

    def step(self, name: str, work: Callable[[], str], not_run: str = '') -> bool:
        """Do ``work`` and note how it went; or note why it is not done."""
        status, detail = 'not run', not_run
        if not not_run:
            try:
                status, detail = 'ok', work()
            except MissingPartError as error:
                status, detail = 'not run', str(error)
            except Exception as error:  # any failure is what the table is for
                status, detail = 'FAILED', f'{type(error).__name__}: {error}'
        self.results.append(CheckResult(self.backend.name, name, status, detail))
        return status == 'ok'

    def run_step(self, name: str, work: Callable[[], str], not_run: str = '') -> None:
        """A step that runs an engine: it may not go on a GPU that the library does not list, but never go wrong."""

        def doubtful() -> str:
            try:
                return work()
            except _DifferentError:
                raise
            except Exception as error:
                raise MissingPartError(f'{self.available.doubt}; tried: {type(error).__name__}: {error}') from error

        self.step(name, doubtful if self.available.doubt else work, not_run or self.available.no_run)

    def run(self) -> list[CheckResult]:
        """All steps."""
        version = self.available.version
        missing = '' if version else self.available.no_build
        if not self.step('library', lambda: version, missing):
            self.step('everything else', lambda: '', 'without the library')
            return self.results
        for precision, graphs in PRECISIONS.items():
            for graph in graphs:
                self._build_and_run(graph, precision)
        source = make_probe('convolution', self.folder / 'options.onnx')
        self._cuda_graph(source)
        self._build_options(source)
        return self.results

    def _build_and_run(self, graph: str, precision: str) -> None:
        name = f'{graph}, {precision}'
        plain = make_probe(graph, self.folder / f'{graph.replace(" ", "_")}.onnx')
        onnx = plain.with_suffix(f'.{precision}.onnx')
        if precision == 'fp16':
            to_fp16(plain, onnx)
        elif precision == 'int8':
            to_int8(plain, onnx, [probe_feed(graph, seed) for seed in range(8)])
        else:
            onnx = plain
        engine = onnx.with_suffix('.engine')
        options = BuildOptions(precision=precision)

        def build() -> str:
            report = self.backend.build(onnx, engine, options)
            return (
                f'{report.seconds:.1f} s, {report.engine_bytes / 2**20:.1f} MiB, {report.layers} layers, '
                f'{report.precision_share:.0%} of products in {precision} ({report.precision_source})'
            )

        def run() -> str:
            return _compare(self.backend, engine, plain, graph, TOLERANCES[precision])

        built = self.step(f'build {name}', build, self.available.no_build)
        self.run_step(f'run {name}', run, '' if built else 'it was not built')

    def _cuda_graph(self, source: Path) -> None:
        engine = source.with_suffix('.engine')

        def run() -> str:
            self.backend.build(source, engine, BuildOptions())
            options = LoadOptions(cuda_graph=True)
            said = _compare(self.backend, engine, source, 'convolution', TOLERANCES['fp32'], options)
            plain, replayed = (_latency(self.backend, engine, LoadOptions(cuda_graph=on)) for on in (False, True))
            return f'{said}; {plain:.3f} ms launched, {replayed:.3f} ms replayed'

        self.run_step('CUDA graph', run, self.available.no_build)

    def _build_options(self, source: Path) -> None:
        engine = source.with_suffix('.engine')
        known = self.backend.build_fields

        def build(options: BuildOptions) -> str:
            report = self.backend.build(source, engine, options)
            return f'{report.seconds:.1f} s, {report.engine_bytes / 2**20:.1f} MiB'

        def timing_cache() -> str:
            cache = self.folder / 'timing.cache'
            first, second = (build(BuildOptions(timing_cache=str(cache))) for _ in range(2))
            return f'without {first}, with {second}, cache {cache.stat().st_size} bytes'

        def try_option(step: str, work: Callable[[], str], name: str) -> None:
            no = self.available.no_build or ('' if name in known else f'{self.backend.name} has no such option')
            self.step(step, work, no)

        try_option('timing cache', timing_cache, 'timing_cache')
        for level in (0, 5):
            options = BuildOptions(optimization_level=level)
            try_option(f'optimisation level {level}', lambda o=options: build(o), 'optimization_level')  # type: ignore[misc]
        compatible = BuildOptions(version_compatible=True)
        try_option('version-compatible engine', lambda: build(compatible), 'version_compatible')
        ampere = BuildOptions(hardware_compatible='ampere_plus')
        try_option('hardware-compatible engine', lambda: build(ampere), 'hardware_compatible')
        targets = BuildOptions(compute_capabilities=('8.6', '12.0'))
        try_option('target compute capabilities', lambda: build(targets), 'compute_capabilities')


def _tensors(graph: str, device: str) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in probe_feed(graph).items()}


def _compare(
    backend: Backend, engine: Path, plain: Path, graph: str, tolerance: float, options: LoadOptions | None = None
) -> str:
    """Run the engine beside ONNX Runtime's CPU fp32.

    Raises:
        _DifferentError: They differ by more than ``tolerance`` of the largest value.
    """
    with get_backend('onnxruntime').load(plain, require_card=False) as reference:
        expected = reference(_tensors(graph, 'cpu'))
    with backend.load(engine, 'cuda', require_card=False, options=options) as runner:
        for _ in range(2):  # the second call takes the recorded path of a CUDA graph
            found = runner(_tensors(graph, 'cuda'))
    worst = 0.0
    for name, tensor in expected.items():
        difference = (found[name].cpu().double() - tensor.double()).abs().max().item()
        worst = max(worst, difference / max(tensor.double().abs().max().item(), 1e-12))
    if not worst <= tolerance:
        raise _DifferentError(f'differs from ONNX Runtime by {worst:.1e} of the largest value, allowed {tolerance:g}')
    return f'largest difference {worst:.1e} of the largest value, allowed {tolerance:g}'


def _latency(backend: Backend, engine: Path, options: LoadOptions) -> float:
    """Median milliseconds of a call, the inputs being on the GPU."""
    feed = _tensors('convolution', 'cuda')
    times = []
    with backend.load(engine, 'cuda', require_card=False, options=options) as runner:
        for _ in range(_RUNS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            runner(feed)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) * 1000)
    return float(np.median(times))


def check_backend(backend: Backend, folder: Path) -> list[CheckResult]:
    """Try everything with ``backend``; files go to ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return _Check(backend, folder).run()


def machine() -> dict[str, str]:
    """What the table's reader must know of this machine."""
    cuda = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if cuda else 'none that PyTorch sees'
    capability = '.'.join(map(str, torch.cuda.get_device_capability())) if cuda else '-'
    return {
        'GPU': gpu,
        'compute capability': capability,
        'PyTorch': torch.__version__,
        'CUDA of PyTorch': str(torch.version.cuda),
        'Python': platform.python_version(),
        'system': f'{platform.system()} {platform.machine()}',
    }


def markdown_table(results: Sequence[CheckResult]) -> str:
    """The results as Markdown, the machine on top."""
    lines = [', '.join(f'{key} {value}' for key, value in machine().items()), '']
    lines += ['| backend | step | status | detail |', '|---|---|---|---|']
    for result in results:
        detail = ' '.join(result.detail.replace('|', '\\|').split())
        lines.append(f'| {result.backend} | {result.step} | {result.status} | {detail} |')
    counts = {status: sum(result.status == status for result in results) for status in ('ok', 'FAILED', 'not run')}
    lines += ['', ', '.join(f'{count} {status}' for status, count in counts.items())]
    return '\n'.join(lines) + '\n'
