"""One run: every job prepared, all of them measured in interleaved rounds, each a row whatever comes of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmtrtvit.apis.machine import Activity, clocks, cores, hardware, now, versions
from mmtrtvit.benchmark.results import NOISY_SPREAD, Ratio, Results, Row, Timing, write_results
from mmtrtvit.benchmark.subjects import Job, Subject, new_row, prepare
from mmtrtvit.benchmark.timing import Measured, interleave, reason

__all__ = ['compare', 'file_name', 'measure']

#: Cores that other processes may keep busy, as a share of all, before a run is called noisy.
BUSY = 0.05

Progress = Callable[[str, int, int], None]
"""``progress(what, done, of)``."""


def measure(
    jobs: Sequence[Job],
    folder: Path,
    *,
    rounds: int,
    warmup: int = 2,
    calls: int = 1,
    limit_s: float | None = None,
    baseline: str = '',
    breakdown: bool = True,
    command: str = '',
    progress: Progress = lambda what, done, of: None,
) -> tuple[Results, Path]:
    """Measure jobs and keep the results on disk, from the first round on.

    Args:
        jobs: What to measure; jobs of one part, backend, precision, shape and batch are compared.
        folder: For the results' file; engines go to a temporary folder in it.
        rounds: How often every job is measured.
        warmup: Calls of each before the first round, thrown away.
        calls: Calls of a job in a round.
        limit_s: No new round begins after this many seconds.
        baseline: Name or backbone of the model that the others are compared with; '' for none.
        breakdown: Whether to ask the backends where an end-to-end model spends its time, after the rounds.
        command: The command line, for the record.
        progress: Called with what begins, and how far the run is.

    Returns:
        The results and their file. A job that failed is a row with its error. Ctrl-C keeps what was measured;
        ``results.interrupted`` tells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next((job.device for job in jobs if job.device != 'cpu'), 'cpu')
    conditions: dict[str, Any] = {'hardware': hardware(device), 'versions': versions(), 'before': clocks(device)}
    results = Results(command, now(), conditions, rounds, warmup, calls, [new_row(job) for job in jobs])
    path = _free(folder / file_name(results))
    subjects: dict[str, Subject] = {}
    with tempfile.TemporaryDirectory(prefix='.engines-', dir=folder) as engines:
        try:
            for number, (job, row) in enumerate(zip(jobs, results.rows, strict=True)):
                place = Path(engines) / str(number)
                place.mkdir()
                report = partial(_report_step, progress, job, number, len(jobs))
                _prepare(subjects, str(number), job, row, place, report)
        except KeyboardInterrupt:
            results.interrupted = True
            for row in results.rows:
                row.error = row.error or 'interrupted before it was measured'
            write_results(results, path)
            return results, path
        activity = Activity.begin()
        measured = interleave(
            {name: subject.call for name, subject in subjects.items()},
            rounds=rounds,
            warmup=warmup,
            calls=calls,
            limit_s=limit_s,
            progress=lambda name, number: progress(f'{jobs[int(name)]}: round {number}', number, rounds),
            after_round=lambda found: _keep(results, found, baseline, path),
        )
        conditions['after'] = clocks(device)
        conditions['others_busy_cores'] = _rounded(activity.others())
        _keep(results, measured, baseline, path)
        if breakdown and not measured.interrupted:
            _break_down(subjects, jobs, progress)
        for subject in subjects.values():
            subject.close()
    write_results(results, path)
    return results, path


def _report_step(progress: Progress, job: Job, done: int, of: int, step: str) -> None:
    progress(f'{job}: {step}', done, of)


def _prepare(
    subjects: dict[str, Subject], name: str, job: Job, row: Row, folder: Path, progress: Callable[[str], None]
) -> None:
    try:
        subjects[name] = prepare(job, row, folder, progress)
    except Exception as error:  # a model that fails is a row, and the others go on
        row.error = reason(error)


def _keep(results: Results, measured: Measured, baseline: str, path: Path) -> None:
    """Fill the rows with what is measured and write them."""
    results.interrupted = measured.interrupted
    for number, row in enumerate(results.rows):
        name = str(number)
        row.error = row.error or measured.errors.get(name, '')
        walls, devices = measured.walls(name), measured.devices(name)
        if not walls:
            if name in measured.samples and not row.error and measured.interrupted:
                row.error = 'interrupted before it was measured'
            continue
        row.wall = Timing.of(walls)
        row.device_time = Timing.of(devices) if devices else None
        row.rounds_ms = [round(value, 4) for value in measured.rounds(name, device=bool(devices))]
        row.images_per_second = 1000 * row.input_shape[0] / row.wall.median_ms
        spread = f'the 10th and 90th percentile lie {(row.latency or row.wall).spread:.0%} of the median apart'
        noisy = [note for note in row.noise.split('; ') if note and 'percentile' not in note]
        row.noise = '; '.join([*noisy, *([spread] if (row.latency or row.wall).spread > NOISY_SPREAD else [])])
    compare(results.rows, baseline)
    results.noise = _noise(results)
    write_results(results, path)


def compare(rows: Sequence[Row], baseline: str) -> None:
    """Give each row its ratio to the baseline of the same part, backend, precision, shape and threads.

    Args:
        rows: Of one run.
        baseline: Name of a model, or of a backbone, which then means the model of the row's own task.
    """
    for row in rows:
        near = [other for other in rows if other.setting == row.setting and other.rounds_ms]
        base = next((other for other in near if other.model == baseline), None)
        base = base or next((other for other in near if (other.backbone, other.task) == (baseline, row.task)), None)
        row.ratio = None
        if baseline and base is not None and base is not row and row.rounds_ms:
            row.ratio = Ratio.of(base.model, base.rounds_ms, row.rounds_ms)


def _noise(results: Results) -> list[str]:
    found = []
    busy = results.conditions.get('others_busy_cores')
    if busy is not None and busy > BUSY * cores():
        found.append(f'other processes kept {busy:g} of {cores()} cores busy during the rounds')
    spread = [row.model for row in results.rows if 'percentile' in row.noise]
    if spread:
        found.append(f'{len(spread)} of {len(results.rows)} rows spread by more than {NOISY_SPREAD:.0%}')
    return found


def _break_down(subjects: dict[str, Subject], jobs: Sequence[Job], progress: Progress) -> None:
    chosen = [name for name in subjects if jobs[int(name)].part == 'end2end' and not subjects[name].row.error]
    for number, name in enumerate(chosen):
        progress(f'{jobs[int(name)]}: where its time goes', number, len(chosen))
        costs = subjects[name].costs()
        subjects[name].row.breakdown = costs and {part: round(value, 4) for part, value in costs.items()}


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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
