"""The columns of the tables, the same in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmtrtvit.benchmark.report.content import Group, shape_of
from mmtrtvit.benchmark.report.numbers import MISSING, clean, percent, significant
from mmtrtvit.benchmark.results import Row, Timing

__all__ = ['BLOCKS', 'MEASURED', 'NOISY', 'Column', 'columns_of', 'extra', 'latency_text', 'notes_of', 'static_columns']

NOISY = '†'
"""Stands behind the latency of a noisy row."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: Its heading.
        text: A row's cell; ``-`` where there is nothing.
        value: What the column sorts by.
        numeric: Whether it is aligned to the right.
    """

    head: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | str | None]
    numeric: bool = True


def _number(head: str, value: Callable[[Row], float | None], write: Callable[[float | None], str]) -> Column:
    return Column(head, lambda row: write(value(row)), value)


def _scaled(name: str, divisor: float) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = getattr(row, name)
        return None if found is None else found / divisor

    return value


def _tenth(value: float | None) -> str:
    return MISSING if value is None else f'{value:.1f}'


def _whole(value: float | None) -> str:
    return MISSING if value is None else f'{value:.0f}'


def median(row: Row) -> float | None:
    """Median latency, ms."""
    return None if row.latency is None else row.latency.median_ms


def spread(row: Row) -> float | None:
    """Distance of the 10th and 90th percentile, ms."""
    return None if row.latency is None else row.latency.p90_ms - row.latency.p10_ms


def latency_text(row: Row) -> str:
    """The median in ms, with a dagger where the row is noisy."""
    return marked(median(row), row)


def marked(milliseconds: float | None, row: Row) -> str:
    """A latency, with a dagger where the row is noisy."""
    return significant(milliseconds) + (NOISY if row.noise and milliseconds is not None else '')


def spread_text(row: Row) -> str:
    """From the 10th to the 90th percentile, ms."""
    timing = row.latency
    return MISSING if timing is None else f'{significant(timing.p10_ms)}..{significant(timing.p90_ms)}'


def ratio_text(row: Row) -> str:
    """How many times as fast as the baseline, with its spread."""
    ratio = row.ratio
    return MISSING if ratio is None else f'{ratio.median:.2f} ({ratio.p10:.2f}..{ratio.p90:.2f})'


def extra(name: str) -> Callable[[Row], float | None]:
    """Return what reads a number of ``row.extra``."""

    def value(row: Row) -> float | None:
        found = row.extra.get(name)
        return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    return value


def per_block(row: Row) -> float | None:
    """Latency of one block, ms: as the row has it, else an equal part of its stack's."""
    return _of_block(row, 'block_ms', row.latency and row.latency.median_ms)


def block_spread_text(row: Row) -> str:
    """From the 10th to the 90th percentile of one block's latency, ms."""
    low = _of_block(row, 'block_p10_ms', row.latency and row.latency.p10_ms)
    high = _of_block(row, 'block_p90_ms', row.latency and row.latency.p90_ms)
    return MISSING if low is None or high is None else f'{significant(low)}..{significant(high)}'


def _of_block(row: Row, name: str, stack_ms: Timing | float | None) -> float | None:
    known, blocks = extra(name)(row), extra('blocks')(row)
    if known is not None:
        return known
    return stack_ms / blocks if isinstance(stack_ms, float) and blocks else None


def block_params(row: Row) -> float | None:
    """Parameters of one block, millions."""
    found = extra('block_params')(row)
    return None if found is None else found / 1e6


MEASURED = (
    Column('Model', lambda row: clean(row.model), lambda row: clean(row.model), False),
    Column('Backbone', lambda row: clean(row.backbone) or MISSING, lambda row: clean(row.backbone), False),
    Column('Median, ms', latency_text, median),
    Column('p10..p90, ms', spread_text, spread),
    _number('Wall, ms', lambda row: row.wall.median_ms if row.wall and row.device_time else None, significant),
    _number('Images/s', lambda row: row.images_per_second, significant),
    Column('Times as fast', ratio_text, lambda row: None if row.ratio is None else row.ratio.median),
    _number('Params, M', _scaled('params', 1e6), _tenth),
    _number('GFLOPs', lambda row: row.gflops, significant),
    _number('Nodes', lambda row: row.nodes, _whole),
    _number('Layers', lambda row: row.layers, _whole),
    _number('Engine, MiB', _scaled('engine_bytes', 2**20), _tenth),
    _number('Peak memory, MiB', lambda row: row.peak_memory_mib, _whole),
)
BLOCKS = (
    Column('Kind', lambda row: clean(row.model), lambda row: clean(row.model), False),
    _number('Stage', extra('stage'), _whole),
    _number('C', lambda row: row.input_shape[1], _whole),
    Column('HxW', lambda row: shape_of(row), lambda row: row.input_shape[2] * row.input_shape[3]),
    _number('Blocks', extra('blocks'), _whole),
    Column('ms per block', lambda row: marked(per_block(row), row), per_block),
    Column('p10..p90, ms', block_spread_text, spread),
    _number('Params, M', block_params, significant),
    _number('GFLOPs', extra('block_gflops'), significant),
    _number('TeraFLOPS', extra('teraflops'), significant),
    _number('TeraParams', extra('teraparams'), significant),
)


def columns_of(group: Group) -> list[Column]:
    """The columns in which at least one row has something."""
    every = BLOCKS if group.is_block else MEASURED
    return [column for column in every if any(column.text(row) != MISSING for row in group.measured)]


def static_columns(rows: Iterable[Row]) -> list[Column]:
    """The columns that rows without a measurement have something in: of an engine that was built but not run."""
    kept = list(rows)
    names = ('Params, M', 'GFLOPs', 'Nodes', 'Layers', 'Engine, MiB')
    return [c for c in MEASURED if c.head in names and any(c.text(row) != MISSING for row in kept)]


def notes_of(row: Row) -> list[str]:
    """What must be known of a row beside its numbers."""
    found = [f'noisy: {clean(row.noise)}'] if row.noise else []
    if row.precision_obtained and row.precision_obtained != row.precision:
        asked, obtained = clean(row.precision), clean(row.precision_obtained)
        share = f' ({percent(row.precision_share)} in {asked})' if row.precision_share is not None else ''
        found.append(f'{asked} was asked for, {obtained} obtained{share}')
    return found
