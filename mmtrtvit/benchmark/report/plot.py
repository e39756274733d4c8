"""The scatter plot of the page: where everything stands in an SVG, for a template to write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmtrtvit.benchmark.report.charts import Point, Scatter
from mmtrtvit.benchmark.report.columns import latency_text, notes_of, ratio_text, spread_text
from mmtrtvit.benchmark.report.labels import Box, along_line, place
from mmtrtvit.benchmark.report.numbers import MISSING, clean, shorten

__all__ = ['HEIGHT', 'WIDTH', 'Mark', 'Plot', 'plot']

WIDTH, HEIGHT = 920, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 16, 52
_LETTER, _LINE = 7.1, 15.0  # mean width of a letter and height of a line of 12 px text
LOGARITHMIC = 6.0


@dataclass(frozen=True)
class Mark:
    """A point on the plot, pixels.

    Attributes:
        point: What it stands for.
        x: Of its middle.
        y: Of its middle, downwards.
        left: Where its error bar begins.
        right: Where it ends.
        label: Its name, cut off where it is long.
        label_x: Left end of the label.
        label_y: Its base line.
        line: ``(x, y)`` at the label's edge, from where a thin line goes to a point that is not beside it; or None.
        tip: What hovering shows, line by line.
    """

    point: Point
    x: float
    y: float
    left: float
    right: float
    label: str
    label_x: float
    label_y: float
    line: tuple[float, float] | None
    tip: list[str]


@dataclass(frozen=True)
class Plot:
    """A scatter plot.

    Attributes:
        scatter: What it shows.
        marks: The points, the fastest first.
        front: ``x,y x,y ...`` of the Pareto front.
        x_ticks: Position and text.
        y_ticks: Position and text.
        logarithmic: Whether the latency's axis is.
    """

    scatter: Scatter
    marks: list[Mark]
    front: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    logarithmic: bool


def plot(scatter: Scatter) -> Plot:
    """Lay a scatter plot out."""
    points = scatter.points
    ends = [value for p in points for value in (p.timing.p10_ms, p.timing.p90_ms, p.timing.median_ms)]
    logarithmic = min(ends) > 0 and max(ends) > LOGARITHMIC * min(ends)
    scale = math.log10 if logarithmic else float
    across = _Axis([scale(value) for value in ends], _LEFT, WIDTH - _RIGHT, 0.06)
    along = _Axis([p.accuracy.value for p in points], HEIGHT - _BOTTOM, _TOP, 0.12)
    anchors = [(across.at(scale(p.timing.median_ms)), along.at(p.accuracy.value)) for p in points]
    spans = [(across.at(scale(p.timing.p10_ms)), across.at(scale(p.timing.p90_ms))) for p in points]
    labels = [shorten(p.name, 32) for p in points]
    obstacles = [Box(x - 8, y - 8, 16, 16) for x, y in anchors]
    obstacles += [Box(a - 3, y - 4, b - a + 6, 8) for (a, b), (_, y) in zip(spans, anchors, strict=True)]
    front = [(across.at(scale(p.timing.median_ms)), along.at(p.accuracy.value)) for p in scatter.front]
    obstacles += along_line(front)
    bounds = Box(_LEFT, _TOP, WIDTH - _RIGHT - _LEFT, HEIGHT - _BOTTOM - _TOP)
    boxes = place(anchors, [(len(label) * _LETTER + 6, _LINE) for label in labels], bounds, obstacles)
    marks = []
    for point, (x, y), (left, right), label, box in zip(points, anchors, spans, labels, boxes, strict=True):
        near = box.nearest(x, y)
        joint = near if math.dist(near, (x, y)) > 14 else None
        marks.append(Mark(point, x, y, left, right, label, box.x + 3, box.y + 11.5, joint, _tip(point)))
    x_values = _decades(ends) if logarithmic else _ticks(across.low, across.high, 9)
    x_ticks = [(across.at(scale(value)), f'{value:g}') for value in x_values if value > 0 or not logarithmic]
    y_ticks = [(along.at(value), f'{value:g}') for value in _ticks(along.low, along.high, 7)]
    x_ticks = [tick for tick in x_ticks if _LEFT <= tick[0] <= WIDTH - _RIGHT]
    line = ' '.join(f'{x:.1f},{y:.1f}' for x, y in front)
    return Plot(scatter, marks, line, x_ticks, y_ticks, logarithmic)


class _Axis:
    """From values to pixels."""

    def __init__(self, values: Sequence[float], begin: float, end: float, margin: float) -> None:
        spread = (max(values) - min(values)) or abs(max(values)) * 0.1 or 1.0
        self.low, self.high = min(values) - margin * spread, max(values) + margin * spread
        self.begin, self.end = begin, end

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values between two others, no more than wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step)
    return [round(number * step, digits) for number in range(first, math.floor(high / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, 20 ... around values."""
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 1)
    return [round(factor * 10.0**power, max(0, -power)) for power in powers for factor in (1, 2, 5)]


def _tip(point: Point) -> list[str]:
    row, accuracy = point.row, point.accuracy
    lines = [point.name, clean(row.model)] if point.name != clean(row.model) else [point.name]
    lines.append(f'{latency_text(row)} ms measured here ({spread_text(row)})')
    if row.ratio:
        lines.append(f'{ratio_text(row)} times as fast as {clean(row.ratio.baseline)}')
    lines.append(f'{accuracy.value:g} % {clean(accuracy.metric)}, published: {clean(accuracy.source) or MISSING}')
    lines += [clean(accuracy.note)] if accuracy.note else []
    lines += ['a reconstruction, not trained by us'] if point.ours else []
    return [shorten(line, 260) for line in [*lines, *notes_of(row)]]
