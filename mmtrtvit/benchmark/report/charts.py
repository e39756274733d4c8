"""What the pictures show: published accuracy against latency, where a detector's time goes, blocks by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmtrtvit.benchmark.report.accuracies import Quoted, is_ours, note_of, rank
from mmtrtvit.benchmark.report.columns import extra
from mmtrtvit.benchmark.report.content import Group
from mmtrtvit.benchmark.report.numbers import clean, significant, slug
from mmtrtvit.benchmark.results import Row, Timing

FORMULAS = (
    'TeraFLOPS: multiply-adds x batch / latency; TeraParams: parameters x batch / latency; 1e12 per second. Latency of '
    'a block: that of a stack less that of a stack of one, over the blocks between, each stack alone in its engine'
)

__all__ = [
    'FORMULAS',
    'PARTS',
    'Heat',
    'Point',
    'Scatter',
    'breakdowns',
    'caption',
    'heats',
    'parts_of',
    'scatters',
    'stage_of',
]

#: Parts of a detector in the order of its work, each with a colour that also colour-blind people tell apart.
PARTS = {
    'backbone': '#0072b2',
    'neck': '#56b4e9',
    'heads': '#009e73',
    'NMS': '#e69f00',
    'RoIAlign': '#d55e00',
    'mask head': '#cc79a7',
    'masks': '#f0e442',
    'output': '#882255',
    'other': '#9a9a9a',
}


@dataclass(frozen=True)
class Point:
    """A backbone on the plane of latency and accuracy.

    Attributes:
        name: Its label.
        row: What was measured here.
        timing: Of that row.
        accuracy: What was published.
    """

    name: str
    row: Row
    timing: Timing
    accuracy: Quoted

    @property
    def ours(self) -> bool:
        """Whether it is a TRT-ViT."""
        return is_ours(self.row.backbone)


@dataclass(frozen=True)
class Scatter:
    """Published accuracy against latency measured here.

    Attributes:
        group: The rows.
        metric: Of the accuracy.
        points: The fastest first.
    """

    group: Group
    metric: str
    points: list[Point]

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in both."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.timing.median_ms, -p.accuracy.value)):
            if not found or point.accuracy.value > found[-1].accuracy.value:
                found.append(point)
        return found

    @property
    def note(self) -> str:
        """What accuracy and latency are, in words."""
        note = note_of(point.row for point in self.points)
        sources = len({point.accuracy.source for point in self.points})
        return f'{note}; {sources} sources, whose training recipes differ' if sources > 1 else note

    @property
    def name(self) -> str:
        """For file names and ids."""
        return f'{self.group.name}_{slug(self.metric, 60)}'


@dataclass(frozen=True)
class Heat:
    """TeraFLOPS or TeraParams of each kind of block at each stage.

    Attributes:
        group: The rows.
        quantity: ``TeraFLOPS`` or ``TeraParams``.
        kinds: From top to bottom.
        stages: From left to right, with the shape of their feature map.
        values: By kind and stage; missing where nothing was measured.
    """

    group: Group
    quantity: str
    kinds: list[str]
    stages: list[str]
    values: Mapping[tuple[str, str], float]

    @property
    def unit(self) -> float:
        """1, or a thousandth where all values are small."""
        return 1.0 if max(self.values.values()) >= 0.1 else 1e-3

    @property
    def title(self) -> str:
        """The quantity with its unit."""
        return self.quantity if self.unit == 1.0 else f'{self.quantity} in thousandths'

    def share(self, value: float) -> float:
        """A value in per cent of the largest."""
        return 100.0 * value / (max(self.values.values()) or 1.0)

    def text(self, value: float | None) -> str:
        """Write a value in that unit."""
        return significant(None if value is None else value / self.unit)


def caption(group: Group) -> str:
    """Hardware, backend and setting of a picture on one line."""
    version = clean(group.row.backend_version)
    return f'{group.run.hardware}; {group.setting}' + (f'; backend version {version}' if version else '')


def scatters(groups: Iterable[Group], published: Sequence[Quoted]) -> list[Scatter]:
    """Every setting against every accuracy that is known of at least two of its backbones, the fitting ones first."""
    found = []
    for group in groups:
        if group.is_block:
            continue
        names = _labels(group)
        metrics: dict[tuple[int, str], list[Point]] = {}
        for entry in published:
            place = rank(entry, group)
            if place is None or entry.unit != '%':
                continue
            for row in group.measured:
                if row.backbone == entry.backbone and row.latency:
                    name = clean(entry.name) if names[id(row)] == row.backbone else names[id(row)]
                    metrics.setdefault((place, entry.metric), []).append(Point(name, row, row.latency, entry))
        for (_, metric), points in sorted(metrics.items(), key=lambda item: item[0][0]):
            if len({point.row.backbone for point in points}) > 1:
                found.append(Scatter(group, metric, sorted(points, key=lambda p: p.timing.median_ms)))
    return found


def breakdowns(groups: Iterable[Group]) -> list[tuple[Group, list[Row]]]:
    """Settings of which rows say where their time goes, with those rows."""
    found = [(group, [row for row in group.measured if _total(row) > 0]) for group in groups]
    return [(group, rows) for group, rows in found if rows]


def parts_of(rows: Iterable[Row]) -> dict[str, str]:
    """The parts that rows have, in order, each with its colour."""
    present = {part for row in rows for part in row.breakdown or {}}
    spare = ['#332288', '#117733', '#aa4499', '#44aa99']
    unknown = {part: spare[k % len(spare)] for k, part in enumerate(sorted(present - set(PARTS)))}
    return {part: colour for part, colour in {**PARTS, **unknown}.items() if part in present}


def heats(groups: Iterable[Group]) -> list[Heat]:
    """The heat maps of the settings of blocks."""
    found = []
    for group in groups:
        if not group.is_block:
            continue
        for quantity in ('TeraFLOPS', 'TeraParams'):
            values: dict[tuple[str, str], float] = {}
            for row in group.measured:
                value = extra(quantity.lower())(row)
                if value is not None:
                    values[clean(row.model), stage_of(row)] = value
            if values:
                kinds = list(dict.fromkeys(kind for kind, _ in values))
                stages = sorted({stage for _, stage in values})
                found.append(Heat(group, quantity, kinds, stages, values))
    return found


def stage_of(row: Row) -> str:
    """Number of the stage; with it, the shape of its feature map."""
    stage = extra('stage')(row)
    height_width = 'x'.join(str(size) for size in row.input_shape[2:])
    return f'stage {stage:.0f}, {height_width}' if stage is not None else height_width


def _total(row: Row) -> float:
    return sum((row.breakdown or {}).values())


def _labels(group: Group) -> dict[int, str]:
    """The backbone of a row, or its model's name where two rows have the same backbone."""
    seen = [row.backbone for row in group.measured]
    return {id(row): row.backbone if seen.count(row.backbone) == 1 else clean(row.model) for row in group.measured}
