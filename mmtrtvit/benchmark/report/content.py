"""What a report says, before it has a form: runs, rows that may be compared, conditions in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmtrtvit.benchmark.report.numbers import MISSING, clean, percent, slug
from mmtrtvit.benchmark.results import Ratio, Results, Row
from mmtrtvit.errors import UserError

__all__ = [
    'BLOCK',
    'Group',
    'Run',
    'and_threads',
    'backend_name',
    'batch_of',
    'groups_of',
    'rebase',
    'runs_of',
    'select',
    'shape_of',
]

BLOCK = 'block'
"""The task and part of a row that measures a stack of one kind of block."""

TASKS = {
    'detection': 'Detection',
    'instance-segmentation': 'Instance segmentation',
    'segmentation': 'Segmentation',
    'classification': 'Classification',
    BLOCK: 'Blocks',
}
PARTS = {'backbone': 'backbone alone', 'network': 'network up to the first head', 'end2end': 'end to end', BLOCK: ''}
BACKENDS = {
    'onnxruntime': 'ONNX Runtime',
    'tensorrt': 'TensorRT',
    'tensorrt-rtx': 'TensorRT-RTX',
    'pytorch': 'PyTorch',
    'torch-compile': 'torch.compile',
    'cudagraph': 'CUDA graph',
}


@dataclass(frozen=True)
class Run:
    """One file of results.

    Attributes:
        number: From 1 on.
        results: What was measured.
    """

    number: int
    results: Results

    @property
    def hardware(self) -> str:
        """The device's name: of the GPU where one took part, else of the CPU with its cores."""
        facts = _mapping(self.results.conditions.get('hardware'))
        if facts.get('gpu') and any(row.device != 'cpu' for row in self.results.rows):
            return clean(facts['gpu'])
        cores = f', {facts["cores"]} cores' if facts.get('cores') else ''
        return clean(facts.get('cpu') or 'unknown hardware') + cores

    @property
    def title(self) -> str:
        """Hardware and date."""
        return f'{self.hardware}, {clean(self.results.date)[:10]}'

    @property
    def warnings(self) -> list[str]:
        """Why the whole run is to be taken with care."""
        found = [f'This run was noisy: {clean(reason)}.' for reason in self.results.noise]
        if self.results.interrupted:
            found.insert(0, 'This run was interrupted: it has fewer rounds than were asked for, or lacks rows.')
        if not self.results.rows:
            found.append('This run has no rows.')
        elif not any(row.latency for row in self.results.rows):
            found.append('No row of this run has a measurement.')
        return found

    def conditions(self) -> list[tuple[str, str]]:
        """Everything that holds for the whole run, as names and values."""
        results = self.results
        known = {'hardware', 'versions', 'before', 'after', 'others_busy_cores'}
        facts = _mapping(results.conditions.get('hardware'))
        found = [
            ('Hardware', _hardware(facts)),
            ('Driver', clean(facts.get('driver') or MISSING)),
            ('Versions', ', '.join(f'{clean(k)} {clean(v)}' for k, v in self.versions.items()) or MISSING),
            ('Measured', clean(results.date)),
            ('Load', self.load),
            ('Rounds', self.rounds),
        ]
        for name, value in results.conditions.items():
            if name not in known:
                found.append((clean(name), ', '.join(_flat(value))))
        return found

    @property
    def versions(self) -> Mapping[str, Any]:
        """Of the libraries."""
        return _mapping(self.results.conditions.get('versions'))

    @property
    def load(self) -> str:
        """Clocks and load before and after, and what others did meanwhile."""
        conditions = self.results.conditions
        moments = [moment for moment in ('before', 'after') if moment in conditions]
        words = [f'{moment}: {", ".join(_flat(conditions[moment]))}' for moment in moments]
        busy = conditions.get('others_busy_cores')
        if isinstance(busy, (int, float)):
            cores = _mapping(conditions.get('hardware')).get('cores')
            of = f' of {clean(cores)}' if cores else ''
            words.append(f'other processes kept {busy:g}{of} cores busy during the rounds')
        return '; '.join(words) or MISSING

    @property
    def rounds(self) -> str:
        """How often was measured."""
        results = self.results
        calls = f'{results.calls} call{"s" if results.calls != 1 else ""}'
        done = max((len(row.rounds_ms) for row in results.rows), default=0)
        fewer = f' asked for, {done} done' if done < results.rounds else ''
        return f'{results.rounds}{fewer}; interleaved, {calls} each, after {results.warmup} of warm-up'


@dataclass(frozen=True)
class Group:
    """Rows of one run that may be compared: the same task, part, backend, device, precision, shape, batch, threads.

    Blocks of all stages are one group, whatever the shape of their feature maps.

    Attributes:
        run: Where they come from.
        measured: Rows with a latency, the fastest first; blocks in the order of the run.
        failed: Rows with an error.
    """

    run: Run
    measured: list[Row]
    failed: list[Row]

    @property
    def row(self) -> Row:
        """Any of them, for what they have in common."""
        return (self.measured or self.failed)[0]

    @property
    def is_block(self) -> bool:
        """Whether these are stacks of blocks."""
        return self.row.task == BLOCK

    @property
    def setting(self) -> str:
        """Backend, device, precision, shape, batch and threads in words."""
        row = self.row
        words = [backend_name(row.backend), clean(row.device), clean(row.precision)]
        words += [] if self.is_block else [shape_of(row)]
        return f'{", ".join([*words, f"batch {batch_of(row)}"])}{and_threads(row)}'

    @property
    def title(self) -> str:
        """Task, part and setting."""
        row = self.row
        part = PARTS.get(row.part, clean(row.part))
        return f'{TASKS.get(row.task, clean(row.task))}{", " + part if part else ""}: {self.setting}'

    @property
    def name(self) -> str:
        """For file names and ids: unique among the groups of a report."""
        row = self.row
        words = [row.task, row.part, row.backend, row.device, row.precision]
        words += [] if self.is_block else [shape_of(row)]
        words += [f'b{batch_of(row)}', *([f't{row.threads}'] if row.threads else [])]
        return slug(f'run{self.run.number}_{"_".join(clean(word).replace(" ", "-") for word in words)}')

    @property
    def baseline(self) -> str:
        """The model of the ratios; '' without ratios."""
        return next((clean(row.ratio.baseline) for row in self.measured if row.ratio), '')

    @property
    def uses_device_time(self) -> bool:
        """Whether the latencies are the GPU's and not the wall clock's."""
        return any(row.device_time for row in self.measured)

    def conditions(self) -> list[tuple[str, str]]:
        """What the table means nothing without, as names and values."""
        row = self.row
        backend = f'{backend_name(row.backend)} {clean(row.backend_version)}'.strip()
        facts = [pair for pair in self.run.conditions() if pair[1] != MISSING]
        clock = 'time on the GPU between two CUDA events' if self.uses_device_time else 'wall time'
        return [
            *facts[:1],
            ('Backend', f'{backend} on {clean(row.device)}{and_threads(row)}'),
            ('Precision', f'{clean(row.precision)} asked for; obtained: {_obtained(self.measured)}'),
            *facts[1:],
            ('Latency', f'{clock} of one call; median, 10th and 90th percentile of all calls'),
            ('Weights', weights_of([*self.measured, *self.failed])),
        ]

    def inside(self) -> list[tuple[str, str]]:
        """What happens inside the timed region, and of which rows; '' for all."""
        regions: dict[str, list[str]] = {}
        for row in self.measured or self.failed:
            regions.setdefault(clean(row.inside), []).append(clean(row.model))
        if len(regions) == 1:
            return [(next(iter(regions)), '')]
        return [(region, ', '.join(models)) for region, models in regions.items()]


def runs_of(results: Iterable[Results]) -> list[Run]:
    """Number the runs."""
    return [Run(number, run) for number, run in enumerate(results, 1)]


def groups_of(run: Run) -> list[Group]:
    """Split a run's rows into what may be compared, in the order of the run."""
    found: dict[tuple[Any, ...], Group] = {}
    for row in run.results.rows:
        setting = row.setting
        if row.task == BLOCK:
            setting = (row.part, row.backend, row.device, row.precision, batch_of(row), row.threads)
        group = found.setdefault((row.task, *setting), Group(run, [], []))
        (group.failed if row.error or row.latency is None else group.measured).append(row)
    for group in found.values():
        if group.measured and not group.is_block:
            group.measured.sort(key=lambda row: row.latency.median_ms if row.latency else 0.0)
    return list(found.values())


def select(results: Results, tasks: Sequence[str] = (), parts: Sequence[str] = ()) -> Results:
    """Keep the rows of some tasks and parts; empty for all."""
    rows = [row for row in results.rows if (not tasks or row.task in tasks) and (not parts or row.part in parts)]
    return dataclasses.replace(results, rows=rows)


def rebase(results: Results, baseline: str) -> Results:
    """Compare the rows of a run with another of its models.

    Args:
        results: The run; left as it is.
        baseline: Name or backbone of the model. Of several rows with that backbone, a row is compared with the one
            of its own task.

    Raises:
        UserError: The run has no measurement of it; names those it has.
    """
    known = [row for row in results.rows if baseline in (row.model, row.backbone) and row.rounds_ms]
    if not known:
        names = sorted({clean(name) for row in results.rows for name in (row.model, row.backbone) if name})
        raise UserError(f'baseline {baseline!r} is not among what was measured: {", ".join(names) or "nothing"}')
    rows = []
    for row in results.rows:
        same = [base for base in known if base.setting == row.setting and base.task == row.task]
        base = next(iter(same or [base for base in known if base.setting == row.setting]), None)
        ratio = None
        if base is not None and base is not row and row.rounds_ms:
            ratio = Ratio.of(base.model, base.rounds_ms, row.rounds_ms)
        rows.append(dataclasses.replace(row, ratio=ratio))
    return dataclasses.replace(results, rows=rows)


def backend_name(backend: str) -> str:
    """As its makers write it."""
    return BACKENDS.get(backend, clean(backend))


def batch_of(row: Row) -> int:
    """Images of a call."""
    return row.input_shape[0] if row.input_shape else 0


def shape_of(row: Row) -> str:
    """``HxW``."""
    return 'x'.join(str(size) for size in row.input_shape[2:])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _flat(value: Any, name: str = '') -> list[str]:
    """Write nested conditions as ``name value`` pairs."""
    if isinstance(value, Mapping):
        return [line for key, entry in value.items() for line in _flat(entry, f'{name} {clean(key)}'.strip())]
    if isinstance(value, (list, tuple)):
        value = ', '.join(clean(entry) for entry in value)
    return [f'{name.replace("_", " ").replace("mhz", "MHz")} {clean(value)}'.strip()]


def _hardware(facts: Mapping[str, Any]) -> str:
    words = []
    if facts.get('gpu'):
        memory = f', {facts["gpu_memory_gib"]} GiB' if facts.get('gpu_memory_gib') else ''
        words.append(f'{clean(facts["gpu"])}{clean(memory)}')
    cores = f', {facts["cores"]} cores' if facts.get('cores') else ''
    memory = f', {facts["memory_gib"]} GiB' if facts.get('memory_gib') else ''
    words.append(f'{clean(facts.get("cpu") or "unknown CPU")}{clean(cores)}{clean(memory)}')
    return '; '.join(words)


def and_threads(row: Row) -> str:
    """``', 2 threads'``; nothing where the backend chose."""
    return f', {row.threads} thread{"s" if row.threads != 1 else ""}' if row.threads else ''


def _obtained(rows: Sequence[Row]) -> str:
    """Precision that the engines really have, with the share of convolutions and matrix products."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(clean(row.precision_obtained) or 'not known', []).append(row)
    words = []
    for precision, members in found.items():
        shares = [row.precision_share for row in members if row.precision_share is not None]
        text = precision
        if shares:
            low, high = percent(min(shares)), percent(max(shares))
            span = high if low == high else f'{low} to {high}'
            text += f' ({span} of convolutions and matrix products in {clean(rows[0].precision)})'
        words.append(text if len(found) == 1 else f'{text} for {len(members)} of {len(rows)}')
    return '; '.join(words) or MISSING


def weights_of(rows: Sequence[Row]) -> str:
    """Whether weights are random, in words."""
    random = sum(row.weights == 'random' for row in rows)
    if not random:
        return 'of checkpoints: ' + ', '.join(sorted({clean(row.weights)[:16] for row in rows}))
    text = 'random, not trained' if random == len(rows) else f'random, not trained, in {random} of {len(rows)} rows'
    if rows[0].part == 'end2end' and rows[0].task in ('detection', 'instance-segmentation'):
        text += '; a trained model finds another number of objects, which may cost more or less after the heads'
    return text
