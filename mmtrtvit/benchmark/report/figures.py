"""The pictures: Pareto fronts, where a detector's time goes, blocks by stage."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmtrtvit.benchmark.report.accuracies import RECONSTRUCTION, is_ours
from mmtrtvit.benchmark.report.charts import (
    FORMULAS,
    Heat,
    Scatter,
    caption,
    parts_of,
)
from mmtrtvit.benchmark.report.columns import NOISY
from mmtrtvit.benchmark.report.content import Group, weights_of
from mmtrtvit.benchmark.report.labels import Box, along_line, place
from mmtrtvit.benchmark.report.numbers import clean, shorten, significant
from mmtrtvit.benchmark.results import Row
from mmtrtvit.fileio import atomic_write_bytes

__all__ = ['draw_breakdown', 'draw_heats', 'draw_pareto', 'text_colour']

DPI = 150
OURS, OTHERS, FRONT, INK, GREY = '#c8102e', '#35618f', '#8a8a8a', '#222222', '#666666'
_LABEL, _SMALL = 8.5, 7.5  # points
_FAR = 6.0  # pixels from which on a thin line joins a label and its point
LOGARITHMIC = 6.0
"""The latency's axis is logarithmic where the slowest takes this many times as long as the fastest."""


def draw_pareto(scatter: Scatter, path: Path) -> Path:
    """Draw published accuracy against latency measured here, with the front of those that no other beats in both."""
    figure, axes = _figure(9.0, 6.2)
    points = scatter.points
    for point in points:
        colour, timing = OURS if point.ours else OTHERS, point.timing
        spread = [[max(0.0, timing.median_ms - timing.p10_ms)], [max(0.0, timing.p90_ms - timing.median_ms)]]
        axes.errorbar(
            timing.median_ms, point.accuracy.value, xerr=spread, fmt='D' if point.ours else 'o', color=colour,
            markersize=7.5 if point.ours else 6, markerfacecolor='white' if point.row.noise else colour,
            elinewidth=1.1, capsize=2.5, zorder=4 if point.ours else 3,
        )  # fmt: skip
    front = scatter.front
    front_x, front_y = [p.timing.median_ms for p in front], [p.accuracy.value for p in front]
    axes.plot(front_x, front_y, color=FRONT, linewidth=1.4, linestyle='--', zorder=1)
    _latency_axis(axes, [t for p in points for t in (p.timing.p10_ms, p.timing.median_ms, p.timing.p90_ms)])
    axes.margins(y=0.12)
    axes.set_ylabel(f'{clean(scatter.metric)}, %', parse_math=False)
    axes.set_title(_wrap(scatter.group.title, 95), fontsize=10.5, loc='left', color=INK, parse_math=False)
    remarks = [caption(scatter.group), scatter.note + '.']
    remarks += [RECONSTRUCTION + '.'] if any(point.ours for point in points) else []
    remarks += ['Bars: 10th to 90th percentile. Hollow: noisy.']
    _finish(figure, remarks, 120, _key(scatter))
    _label_points(figure, axes, scatter)
    return _save(figure, path)


def draw_breakdown(group: Group, rows: Sequence[Row], path: Path) -> Path:
    """Draw a stacked bar for each row: ms and share of each part of the model."""
    parts = parts_of(rows)
    figure, axes = _figure(10.0, 2.0 + 0.42 * len(rows))
    longest = max(sum((row.breakdown or {}).values()) for row in rows)
    for place_, row in enumerate(rows):
        spent = row.breakdown or {}
        total, left = sum(spent.values()), 0.0
        for part, colour in parts.items():
            width = max(0.0, spent.get(part, 0.0))
            axes.barh(place_, width, left=left, height=0.74, color=colour, edgecolor='white', linewidth=0.6)
            if width > 0.05 * longest:
                text = f'{significant(width)}\n{width / total:.0%}'
                middle = left + width / 2
                axes.text(middle, place_, text, ha='center', va='center', fontsize=6.6, color=text_colour(colour))
            left += width
        axes.text(left + 0.008 * longest, place_, f'{significant(total)} ms', va='center', fontsize=_LABEL, color=INK)
    axes.set_yticks(range(len(rows)), [shorten(row.model, 44) + (NOISY if row.noise else '') for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set(parse_math=False, color=OURS if is_ours(row.backbone) else INK, fontsize=_LABEL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_xlabel("ms of one call, by the backend's profiler")
    axes.grid(axis='y', visible=False)
    axes.set_title(_wrap(f'Where the time goes. {group.title}', 88), fontsize=10.5, loc='left', parse_math=False)
    key = [(Patch(color=colour), part) for part, colour in parts.items()]
    remarks = [
        caption(group),
        'NMS: box decoding, top-k and suppression. Profiling slows a model: the sum is not the latency of the table. '
        f'Weights: {weights_of(rows)}.',
    ]
    _finish(figure, remarks, 160, key)
    return _save(figure, path)


def draw_heats(heats: Sequence[Heat], path: Path) -> Path:
    """Draw the heat maps of one setting beside each other."""
    rows, columns = len(heats[0].kinds), max(len(heat.stages) for heat in heats)
    figure, axes = _figure(1.6 + len(heats) * (1.3 + 0.95 * columns), 2.2 + 0.42 * rows, len(heats))
    for heat, panel in zip(heats, axes if len(heats) > 1 else [axes], strict=True):
        grid = [[heat.values.get((kind, stage), math.nan) for stage in heat.stages] for kind in heat.kinds]
        top = max(heat.values.values()) or 1.0
        panel.set_facecolor('#ececec')
        panel.imshow(grid, cmap='viridis', vmin=0.0, vmax=top, aspect='auto')
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                colour = 'black' if value > 0.6 * top or math.isnan(value) else 'white'
                panel.text(x, y, heat.text(value), ha='center', va='center', fontsize=8, color=colour)
        panel.set_xticks(range(len(heat.stages)), [stage.replace(', ', '\n') for stage in heat.stages], fontsize=_SMALL)
        panel.set_yticks(range(len(heat.kinds)), [shorten(kind, 28) for kind in heat.kinds], fontsize=_LABEL)
        for tick in panel.get_yticklabels():
            tick.set_parse_math(False)
        panel.grid(visible=False)
        panel.set_title(f'{heat.title}, higher is better', fontsize=9.5, loc='left')
    width = 24 + 24 * columns
    remarks = [caption(heats[0].group), f'{FORMULAS}.']
    _finish(figure, remarks, width)
    return _save(figure, path)


def text_colour(background: str) -> str:
    """Black or white, whichever is easier to read on a colour ``#rrggbb``."""
    red, green, blue = (int(background[k : k + 2], 16) / 255 for k in (1, 3, 5))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 'white' if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else 'black'


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    """Make a figure of its own, apart from pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for panel in axes if panels > 1 else [axes]:
        panel.set_axisbelow(True)
        panel.grid(color='#e4e4e4', linewidth=0.7)
        panel.tick_params(labelsize=8.5, colors=INK, length=3)
        for side in ('top', 'right'):
            panel.spines[side].set_visible(False)
    return figure, axes


def _latency_axis(axes: Any, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if high > LOGARITHMIC * low:
        axes.set_xscale('log')
        axes.set_xlim(low / 1.25, high * 1.35)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        scale = ', logarithmic'
    else:
        margin = 0.1 * (high - low) or 0.1 * high
        axes.set_xlim(max(0.0, low - margin), high + 1.4 * margin)
        axes.xaxis.set_major_locator(MaxNLocator(8))
        scale = ''
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.set_xlabel(f'latency measured here, ms of one call{scale}')


def _key(scatter: Scatter) -> list[tuple[Any, str]]:
    """What the marks mean; below the axes, where it covers no point."""
    found: list[tuple[Any, str]] = []
    for ours, name in ((True, 'TRT-ViT (ours: a reconstruction, not trained)'), (False, 'others')):
        if any(point.ours == ours for point in scatter.points):
            style: dict[str, Any] = dict(color=OURS if ours else OTHERS, marker='D' if ours else 'o', linestyle='none')
            found.append((Line2D([], [], **style), name))
    return [*found, (Line2D([], [], color=FRONT, linestyle='--'), 'front: no other is faster and more accurate')]


def _label_points(figure: Figure, axes: Any, scatter: Scatter) -> None:
    """Write the names, each where it covers least, joined to its point where that is not beside it."""
    canvas: Any = figure.canvas
    canvas.draw()
    renderer = canvas.get_renderer()
    anchors = [tuple(axes.transData.transform((p.timing.median_ms, p.accuracy.value))) for p in scatter.points]
    names = [shorten(point.name, 36) for point in scatter.points]
    styles: list[dict[str, Any]] = [
        dict(fontsize=_LABEL, color=OURS if p.ours else INK, weight='bold' if p.ours else 'normal', parse_math=False)
        for p in scatter.points
    ]
    sizes = []
    for name, style in zip(names, styles, strict=True):
        probe = axes.text(0, 0, name, transform=None, **style)
        extent = probe.get_window_extent(renderer)
        sizes.append((extent.width + 4, extent.height + 3))
        probe.remove()
    obstacles = [Box(x - 9, y - 9, 18, 18) for x, y in anchors]
    for point, (_, y) in zip(scatter.points, anchors, strict=True):
        left, right = (axes.transData.transform((v, 0))[0] for v in (point.timing.p10_ms, point.timing.p90_ms))
        obstacles.append(Box(left - 4, y - 4, right - left + 8, 8))
    front = scatter.front
    corners = [axes.transData.transform((p.timing.median_ms, p.accuracy.value)) for p in front]
    obstacles += along_line(corners)
    inside = axes.get_window_extent(renderer)
    bounds = Box(inside.x0, inside.y0, inside.width, inside.height)
    placed = place(anchors, sizes, bounds, obstacles)
    for (x, y), box, name, style in zip(anchors, placed, names, styles, strict=True):
        near = box.nearest(x, y)
        axes.text(box.x + 2, box.y + 2, name, transform=None, va='bottom', zorder=5, **style)
        if math.dist(near, (x, y)) > 9 + _FAR:
            (x0, y0), (x1, y1) = (axes.transData.inverted().transform(end) for end in (near, (x, y)))
            axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.6, zorder=2, scalex=False, scaley=False)


def _finish(figure: Figure, remarks: Sequence[str], width: int, key: Sequence[tuple[Any, str]] = ()) -> None:
    """Set the caption, and above it a key of colours, below the axes and make room for them."""
    lines = [line for remark in remarks for line in textwrap.wrap(clean(remark), width)]
    inch = 1 / figure.get_figheight()
    height = (len(lines) * 10.5 + 10) / 72 * inch
    for number, line in enumerate(lines):
        y = height - (number * 10.5 + 6) / 72 * inch
        figure.text(0.012, y, line, fontsize=7, color=GREY, va='top', parse_math=False)
    if key:
        figure.legend(
            [handle for handle, _ in key], [name for _, name in key], loc='lower center', ncols=len(key),
            bbox_to_anchor=(0.5, height), frameon=False, fontsize=_SMALL, handlelength=1.6, columnspacing=1.2,
            borderpad=0,
        )  # fmt: skip
        height += 0.22 * inch
    figure.tight_layout(rect=(0, height, 1, 1))


def _wrap(text: str, width: int) -> str:
    return '\n'.join(textwrap.wrap(clean(text), width)[:3])


def _save(figure: Figure, path: Path) -> Path:
    data = io.BytesIO()
    figure.savefig(data, format='png', dpi=DPI, metadata={'Software': None})
    return atomic_write_bytes(path, data.getvalue())
