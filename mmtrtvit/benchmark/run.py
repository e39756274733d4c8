"""One run: everything prepared, all of it measured in interleaved rounds, each a row whatever comes of it."""

from __future__ import annotations

import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmtrtvit.apis.machine import Activity, clocks, cores, hardware, now, versions
from mmtrtvit.benchmark.results import NOISY_SPREAD, Ratio, Results, Row, Timing, write_results
from mmtrtvit.benchmark.subjects import Step, Subject
from mmtrtvit.benchmark.timing import Measured, interleave, reason
from mmtrtvit.fileio import make_folder

__all__ = ['Entry', 'Pace', 'Progress', 'Run', 'compare', 'file_name']

#: Cores that other processes may keep busy, as a share of all, before a run is called noisy.
BUSY = 0.05

Progress = Callable[[str, int, int], None]
"""``progress(what, done, of)``."""


@dataclass(frozen=True)
class Pace:
    """How often is measured.

    Attributes:
        rounds: Interleaved rounds.
        warmup: Calls of each before the first round, thrown away.
        calls: Calls of each in a round.
        limit_s: No new round begins after this many seconds; at least one is measured.
    """

    rounds: int = 20
    warmup: int = 2
    calls: int = 1
    limit_s: float | None = None


@dataclass(frozen=True)
class Entry:
    """What a run measures.

    Attributes:
        name: As shown.
        row: What is known before; filled as the run goes on.
        prepare: Makes it ready to be timed, with its files in a folder of its own.
    """

    name: str
    row: Row
    prepare: Callable[[Path, Step], Subject]


@dataclass
class Run:
    """One file of results in the making.

    Args:
        pace: How often is measured.
        folder: For the file; engines go to a temporary folder in it.
        device: ``cpu`` or ``cuda:0``; whose clocks are recorded.
        command: The command line, for the record.
        suffix: What the file's name ends with, such as ``_blocks``.
        progress: Called with what begins, and how far the run is.
        rows_of: All rows measured so far to those of the file, which may be derived from them; after each round.

    Attributes:
        results: What is there so far.
        path: The file, written after each round.
        measured: The rows of all entries.
    """

    pace: Pace
    folder: Path
    device: str = 'cpu'
    command: str = ''
    suffix: str = ''
    progress: Progress = lambda what, done, of: None
    rows_of: Callable[[Sequence[Row]], list[Row]] = list
    results: Results = field(init=False)
    path: Path = field(init=False, default=Path())
    measured: list[Row] = field(init=False, default_factory=list)
    _busy: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        conditions = {'hardware': hardware(self.device), 'versions': versions(), 'before': clocks(self.device)}
        pace = self.pace
        self.results = Results(self.command, now(), conditions, pace.rounds, pace.warmup, pace.calls)

    def measure(self, entries: Sequence[Entry], breakdown: bool = False) -> bool:
        """Prepare everything, measure it in interleaved rounds, and keep the results on disk.

        One that fails is a row with its error. Ctrl-C and SIGTERM keep what was measured; ``results.interrupted``
        tells.

        Args:
            entries: What to measure; those of earlier calls are measured no more, but their rows stay.
            breakdown: Whether to ask the backends where an end-to-end model spends its time, after the rounds.

        Returns:
            Whether it went to its end; False after Ctrl-C.
        """
        make_folder(self.folder)
        self.measured += [entry.row for entry in entries]
        subjects: dict[int, Subject] = {}
        with _terminable(), tempfile.TemporaryDirectory(prefix='.engines-', dir=self.folder) as engines:
            try:
                for number, entry in enumerate(entries):
                    place = Path(engines) / str(number)
                    place.mkdir()
                    try:
                        subjects[number] = entry.prepare(place, partial(self._step, entry, number, len(entries)))
                    except Exception as error:  # one that fails is a row, and the others go on
                        entry.row.error = reason(error)
                self._rounds(entries, subjects)
                if breakdown and not self.results.interrupted:
                    self._break_down(entries, subjects)
            except KeyboardInterrupt:
                self.results.interrupted = True
            finally:
                for subject in subjects.values():
                    subject.close()
        if self.results.interrupted:
            for entry in entries:
                entry.row.error = entry.row.error or ('' if entry.row.wall else 'interrupted before it was measured')
        self.keep()
        return not self.results.interrupted

    def _step(self, entry: Entry, done: int, of: int, step: str) -> None:
        self.progress(f'{entry.name}: {step}', done, of)

    def _rounds(self, entries: Sequence[Entry], subjects: dict[int, Subject]) -> None:
        activity, pace = Activity.begin(), self.pace
        warned = {number: entries[number].row.noise for number in subjects}  # before anything is timed

        def after_round(found: Measured) -> None:
            for number in subjects:
                _fill(entries[number].row, found, str(number), warned[number])
            self.keep()

        found = interleave(
            {str(number): subject.call for number, subject in subjects.items()},
            rounds=pace.rounds,
            warmup=pace.warmup,
            calls=pace.calls,
            limit_s=pace.limit_s,
            progress=lambda name, number: self.progress(
                f'{entries[int(name)].name}: round {number}', number, pace.rounds
            ),
            after_round=after_round,
        )
        self.results.interrupted = found.interrupted
        self.results.conditions['after'] = clocks(self.device)
        busy = activity.others()
        self._busy += [] if busy is None else [busy]
        after_round(found)  # also what failed in a round that was not whole

    def _break_down(self, entries: Sequence[Entry], subjects: dict[int, Subject]) -> None:
        ends = [number for number in subjects if entries[number].row.part == 'end2end']
        chosen = [number for number in ends if entries[number].row.wall and not entries[number].row.error]
        for done, number in enumerate(chosen):
            self._step(entries[number], done, len(chosen), 'where its time goes')
            costs = subjects[number].costs()
            entries[number].row.breakdown = costs and {part: round(value, 4) for part, value in costs.items()}

    def keep(self) -> None:
        """Write what there is."""
        results = self.results
        results.rows = self.rows_of(self.measured)
        busy = max(self._busy, default=0.0)
        results.conditions['others_busy_cores'] = round(busy, 2) if self._busy else None
        noisy = [f'other processes kept {busy:.2g} of {cores()} cores busy during the rounds']
        results.noise = noisy if busy > BUSY * cores() else []
        timings = [row.latency for row in self.measured if row.latency]  # of a block's row there are two
        spread = sum(timing.is_noisy for timing in timings)
        if spread:
            results.noise.append(f'{spread} of {len(timings)} timings spread by more than {NOISY_SPREAD:.0%}')
        if self.path == Path():
            name = Path(file_name(results))
            self.path = _free(self.folder / f'{name.stem}{self.suffix}{name.suffix}')
        write_results(results, self.path)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let what ``timeout``, ``docker stop`` and slurm send end a run as Ctrl-C does: rows kept, engines removed."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _fill(row: Row, found: Measured, name: str, warned: str) -> None:
    """Enter what the rounds gave; ``warned`` is the noise that was there before them."""
    row.error = row.error or found.errors.get(name, '')
    walls, devices = found.walls(name), found.devices(name)
    if not walls:
        return
    row.wall = Timing.of(walls)
    row.device_time = Timing.of(devices) if devices else None
    row.rounds_ms = [round(value, 4) for value in found.rounds(name, device=bool(devices))]
    row.images_per_second = 1000 * row.input_shape[0] / row.wall.median_ms
    latency = row.latency or row.wall
    apart = f'the 10th and 90th percentile lie {latency.spread:.0%} of the median apart' if latency.is_noisy else ''
    row.noise = '; '.join(note for note in (warned, apart) if note)


def compare(rows: Sequence[Row], baseline: str) -> list[Row]:
    """Give each row its ratio to the baseline of the same part, backend, precision, shape and threads.

    Args:
        rows: Of one run.
        baseline: Name of a model, or of a backbone, which then means the model of the row's own task; '' for none.

    Returns:
        The rows.
    """
    for row in rows:
        near = [other for other in rows if other.setting == row.setting and other.rounds_ms]
        base = next((other for other in near if other.model == baseline), None)
        base = base or next((other for other in near if (other.backbone, other.task) == (baseline, row.task)), None)
        row.ratio = None
        if baseline and base is not None and base is not row and row.rounds_ms:
            row.ratio = Ratio.of(base.model, base.rounds_ms, row.rounds_ms)
    return list(rows)


def file_name(results: Results) -> str:
    """``<date>_<hardware>_<backend>_<precision>.json``."""
    facts = results.conditions['hardware']
    words = [results.date[:10], _slug(facts.get('gpu') or facts['cpu'])]
    for name in ('backend', 'precision'):
        words.append('+'.join(sorted({getattr(row, name) for row in results.rows})))
    return '_'.join(words) + '.json'


def _slug(name: str) -> str:
    name = re.sub(r'\((?:R|TM|r|tm)\)|\bCPU\b|\bProcessor\b|@.*', ' ', name)
    return '-'.join(re.findall(r'[a-z0-9.]+', name.lower())) or 'unknown'


def _free(path: Path) -> Path:
    """The path itself, or with the first number that no file has."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f'{path.stem}_{number}{path.suffix}'), number + 1
    return free
