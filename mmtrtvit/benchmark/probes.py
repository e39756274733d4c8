"""Modules that are no model of a config, such as a stack of blocks, made engines and measured in one run.

:mod:`mmtrtvit.benchmark.run` does the same for whole models.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.machine import Activity, clocks, cores, hardware, now, versions
from mmtrtvit.benchmark.results import NOISY_SPREAD, Results, Row, Timing, write_results
from mmtrtvit.benchmark.run import BUSY, file_name
from mmtrtvit.benchmark.subjects import MODULE_BACKENDS, Subject, multiply_adds, note_build, wrap_module
from mmtrtvit.benchmark.timing import Measured, Sample, interleave, reason, stopwatch
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.backends import Runner, get_backend
from mmtrtvit.deploy.config import DeployConfig, load_deploy_config
from mmtrtvit.deploy.exporter import export
from mmtrtvit.deploy.graphs import GraphOptions
from mmtrtvit.deploy.graphs.base import INPUT, DeployGraph
from mmtrtvit.deploy.precision import to_fp16

__all__ = ['SKIPPED', 'Pace', 'Probe', 'ProbeGraph', 'Run', 'Setting']

#: Key of ``Row.extra`` of a row that was left out on purpose: its error is no failure of the run.
SKIPPED = 'skipped'
#: How many times its weights a module needs while it becomes an engine: itself, the graph, the file, the engine.
COPIES = 4
#: Share of the free memory that one attention matrix and its softmax may take on a CPU.
MEMORY_SHARE = 0.5

Progress = Callable[[str, int, int], None]
"""``progress(what, done, of)``."""


@dataclass(frozen=True)
class Setting:
    """What is the same for everything in a run.

    Attributes:
        backend: One of :func:`mmtrtvit.deploy.backends.backend_names`.
        precision: ``fp32`` or ``fp16``.
        shape: Height and width of the image, pixels.
        batch: Images a call.
        device: ``cpu`` or ``cuda:0``.
        threads: CPU threads; None for the backend's choice.
    """

    backend: str
    precision: str
    shape: tuple[int, int]
    batch: int = 1
    device: str = 'cpu'
    threads: int | None = None

    def __str__(self) -> str:
        return f'{self.backend} {self.precision}'


@dataclass(frozen=True)
class Pace:
    """How often is measured.

    Attributes:
        rounds: Interleaved rounds.
        warmup: Calls of each before the first round, thrown away.
        calls: Calls of each in a round.
        limit_s: No new round begins after this many seconds.
    """

    rounds: int = 20
    warmup: int = 2
    calls: int = 1
    limit_s: float | None = None


@dataclass(frozen=True)
class Probe:
    """A module to be measured.

    Attributes:
        name: Unique in its run.
        model: As ``Row.model``.
        part: ``block`` or ``backbone``.
        size: Of its input without the batch, ``(C, H, W)``.
        make: Builds it, in eval mode; raises UserError where that does not go.
        scores: Entries of its largest attention matrix, of one image.
        extra: As ``Row.extra``.
    """

    name: str
    model: str
    part: str
    size: tuple[int, int, int]
    make: Callable[[], nn.Module]
    scores: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def row(self, setting: Setting) -> Row:
        """Its row before anything is measured."""
        what = {
            'block': 'from the feature map before a stack of blocks to the one behind it',
            'backbone': 'from the normalised image to the last feature map',
        }[self.part]
        where = 'in the memory of the host' if setting.device == 'cpu' else 'on the GPU, nothing copied'
        return Row(
            model=self.model,
            config='',
            backbone='',
            task='block' if self.part == 'block' else 'classification',
            part=self.part,
            backend=setting.backend,
            backend_version=get_backend(setting.backend).availability().version,
            device=setting.device,
            precision=setting.precision,
            input_shape=[setting.batch, *self.size],
            inside=f'{what}; input and output {where}',
            threads=setting.threads,
            extra=dict(self.extra),
        )


class ProbeGraph(DeployGraph):
    """Any module with one feature map in and one out, as the exporter and the backends take it.

    Args:
        module: Maps ``(B, C, H, W)`` to a tensor, or to a sequence whose last entry is meant.
        size: ``(C, H, W)``.
        batch: B.
    """

    task = 'features'
    output_names = ('feature',)

    def __init__(self, module: nn.Module, size: tuple[int, int, int], batch: int) -> None:
        super().__init__(SimpleNamespace(data_preprocessor=None), GraphOptions(size[1], size[2], batch))
        self.backbone = module
        self.channels = size[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(B, C, H, W)``."""
        return self.options.batch_size, self.channels, *self.options.shape

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map, alone in a tuple."""
        out = self.backbone(image)
        return (out if isinstance(out, Tensor) else out[-1],)


@cache
def deploy_config(setting: Setting) -> DeployConfig:
    """How the backend builds and loads a plain static graph: what comes along for classifiers."""
    backend = 'tensorrt' if setting.backend in MODULE_BACKENDS else setting.backend
    name = CONFIG_ROOT / 'deploy' / f'classification_{backend}_static-224x224.py'
    changed = {'backend_config.precision': setting.precision, 'backend_config.load': dict(check_finite=False)}
    return load_deploy_config(str(name), changed)


def prepare(probe: Probe, setting: Setting, row: Row, folder: Path, progress: Callable[[str], None]) -> Subject:
    """Build, export and load; fills the row as far as it gets.

    Raises:
        UserError: The module, the precision or the backend does not go here, or there is too little memory.
    """
    begin = time.perf_counter()
    backend, options = get_backend(setting.backend), deploy_config(setting)
    progress('building')
    _check_scores(probe, setting, row)
    module = probe.make()
    row.params = sum(parameter.numel() for parameter in module.parameters())
    _check_weights(probe, setting, row)
    with torch.no_grad():
        graph = ProbeGraph(module, probe.size, setting.batch).eval()
        image = graph.example_input()
        row.gflops = multiply_adds(graph, image) / setting.batch / 1e9
    if setting.backend in MODULE_BACKENDS:
        runner: Runner = wrap_module(backend, graph, image, setting)
    else:
        progress('exporting')
        onnx = _export(graph, folder, setting.precision)
        del module, graph
        gc.collect()  # the exporter leaves the weights in circles
        progress(f'building with {setting.backend}')
        engine = folder / f'engine{backend.engine_suffix}'
        note_build(row, backend.build(onnx, engine, replace(options.build, precision=setting.precision)))
        available = backend.availability()
        if not available.can_run:
            raise UserError(f'built, not run: {available.no_run}')
        load = options.load
        if setting.backend == 'onnxruntime' and setting.threads is not None:
            load = replace(load, threads=setting.threads)
        runner = backend.load(engine, setting.device, require_card=False, options=load)
        for file in folder.iterdir():  # loaded; a run may have a hundred of them
            file.unlink()
    feed = {INPUT: image.to(setting.device)}
    runner(feed)
    row.build_seconds = time.perf_counter() - begin
    return Subject(row, stopwatch(lambda: runner(feed), runner.device), lambda: None, runner.close)


def _export(graph: DeployGraph, folder: Path, precision: str) -> Path:
    exact, lowered = folder / 'fp32.onnx', folder / 'fp16.onnx'
    export(graph, exact)
    if precision == 'fp32':
        return exact
    to_fp16(exact, lowered)
    return lowered


def _check_scores(probe: Probe, setting: Setting, row: Row) -> None:
    """Refuse what a CPU's memory cannot hold; a GPU's builder says so itself, and may never write the matrix out."""
    free = free_memory()
    # PyTorch's attention on the CPU keeps no matrix; the exported one keeps the scores and their softmax
    needed = 2 * 4 * probe.scores * setting.batch
    if setting.backend in MODULE_BACKENDS or setting.device != 'cpu' or free is None or needed <= MEMORY_SHARE * free:
        return
    row.extra[SKIPPED] = True
    raise UserError(
        f'left out: its attention over {probe.size[1]}x{probe.size[2]} or more tokens needs {needed / 2**30:.1f} GiB, '
        f'{free / 2**30:.1f} GiB of memory are free: take a smaller --shape'
    )


def _check_weights(probe: Probe, setting: Setting, row: Row) -> None:
    free = free_memory()
    needed = COPIES * 4 * (row.params or 0)
    if free is None or needed <= free:
        return
    row.extra[SKIPPED] = True
    raise UserError(
        f'left out: to build it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free: '
        'take fewer --kinds or --stages, or a smaller --depth'
    )


def free_memory() -> float | None:
    """Memory that programs can still have, bytes; None where Linux is not."""
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')), None)


@dataclass
class Run:
    """One file of results in the making.

    Args:
        setting: Of all its probes.
        pace: How often is measured.
        folder: For the file; engines go to a temporary folder in it.
        command: The command line, for the record.
        suffix: What the file's name ends with, such as ``blocks``.
        progress: Called with what begins, and how far the run is.

    Attributes:
        results: What is there so far.
        path: The file, written after each round.
        measured: Probe to its own row.
    """

    setting: Setting
    pace: Pace
    folder: Path
    command: str = ''
    suffix: str = 'blocks'
    progress: Progress = lambda what, done, of: None
    results: Results = field(init=False)
    path: Path = field(init=False)
    measured: dict[str, Row] = field(init=False, default_factory=dict)
    _busy: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        device, pace = self.setting.device, self.pace
        conditions = {'hardware': hardware(device), 'versions': versions(), 'before': clocks(device)}
        self.results = Results(self.command, now(), conditions, pace.rounds, pace.warmup, pace.calls)
        self.path = Path()

    def measure(self, probes: Sequence[Probe], rows_of: Callable[[Mapping[str, Row]], list[Row]]) -> bool:
        """Build all probes, measure them in interleaved rounds, and keep the results on disk.

        A probe that fails is a row with its error. Ctrl-C keeps what was measured.

        Args:
            probes: What to measure; those of earlier calls are measured no more, but their rows stay.
            rows_of: All measured rows by probe to the rows of the file, called after each round.

        Returns:
            Whether it went to its end; False after Ctrl-C.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        own = {probe.name: probe.row(self.setting) for probe in probes}
        self.measured.update(own)
        subjects: dict[str, Subject] = {}
        with tempfile.TemporaryDirectory(prefix='.engines-', dir=self.folder) as engines:
            try:
                for number, probe in enumerate(probes):
                    report = partial(self._report, probe, number, len(probes))
                    try:
                        subjects[probe.name] = prepare(probe, self.setting, own[probe.name], Path(engines), report)
                    except Exception as error:  # one that fails is a row, and the others go on
                        own[probe.name].error = reason(error)
                self._rounds(subjects, own, rows_of)
            except KeyboardInterrupt:
                self.results.interrupted = True
            finally:
                for subject in subjects.values():
                    subject.close()
        if self.results.interrupted:
            for row in own.values():
                row.error = row.error or ('' if row.wall else 'interrupted before it was measured')
        self.keep(rows_of)
        return not self.results.interrupted

    def _report(self, probe: Probe, done: int, of: int, step: str) -> None:
        self.progress(f'{probe.name}: {step}', done, of)

    def _rounds(
        self, subjects: dict[str, Subject], own: dict[str, Row], rows_of: Callable[[Mapping[str, Row]], list[Row]]
    ) -> None:
        activity, pace = Activity.begin(), self.pace

        def after_round(found: Measured) -> None:
            _fill(own, found)
            self.keep(rows_of)

        calls: dict[str, Callable[[], Sample]] = {name: subject.call for name, subject in subjects.items()}
        found = interleave(
            calls,
            rounds=pace.rounds,
            warmup=pace.warmup,
            calls=pace.calls,
            limit_s=pace.limit_s,
            progress=lambda name, number: self.progress(f'{name}: round {number}', number, pace.rounds),
            after_round=after_round,
        )
        _fill(own, found)
        self.results.interrupted = found.interrupted
        self.results.conditions['after'] = clocks(self.setting.device)
        busy = activity.others()
        self._busy += [] if busy is None else [busy]

    def keep(self, rows_of: Callable[[Mapping[str, Row]], list[Row]]) -> None:
        """Write what there is."""
        results = self.results
        results.rows = rows_of(self.measured)
        busy = max(self._busy, default=0.0)
        results.conditions['others_busy_cores'] = round(busy, 2) if self._busy else None
        noisy = [f'other processes kept {busy:.2g} of {cores()} cores busy during the rounds']
        results.noise = noisy if busy > BUSY * cores() else []
        spread = [row for row in results.rows if 'percentile' in row.noise]
        if spread:
            results.noise.append(f'{len(spread)} of {len(results.rows)} rows spread by more than {NOISY_SPREAD:.0%}')
        if self.path == Path():
            name = Path(file_name(results))
            self.path = _free(self.folder / f'{name.stem}_{self.suffix}{name.suffix}')
        write_results(results, self.path)


def _fill(rows: Mapping[str, Row], found: Measured) -> None:
    for name, row in rows.items():
        row.error = row.error or found.errors.get(name, '')
        walls, devices = found.walls(name), found.devices(name)
        if not walls:
            continue
        row.wall = Timing.of(walls)
        row.device_time = Timing.of(devices) if devices else None
        row.rounds_ms = [round(value, 4) for value in found.rounds(name, device=bool(devices))]
        row.images_per_second = 1000 * row.input_shape[0] / row.wall.median_ms
        spread = (row.latency or row.wall).spread
        notes = [note for note in row.noise.split('; ') if note and 'percentile' not in note]
        if spread > NOISY_SPREAD:
            notes.append(f'the 10th and 90th percentile lie {spread:.0%} of the median apart')
        row.noise = '; '.join(notes)


def _free(path: Path) -> Path:
    """The path itself, or with the first number that no file has."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f'{path.stem}_{number}{path.suffix}'), number + 1
    return free
