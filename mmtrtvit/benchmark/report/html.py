"""A report as one HTML page that needs no network: filtered and sorted tables, plots that answer to the mouse."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mmtrtvit.benchmark.published import Claim
from mmtrtvit.benchmark.report.accuracies import RECONSTRUCTION, Quoted, is_ours, note_of
from mmtrtvit.benchmark.report.charts import (
    FORMULAS,
    Heat,
    Scatter,
    breakdowns,
    parts_of,
)
from mmtrtvit.benchmark.report.columns import BLOCKS, MEASURED, Column, notes_of, static_columns
from mmtrtvit.benchmark.report.content import Group, Run, backend_name, batch_of, groups_of, shape_of
from mmtrtvit.benchmark.report.figures import text_colour
from mmtrtvit.benchmark.report.markdown import SOURCES, is_link
from mmtrtvit.benchmark.report.numbers import MISSING, clean, percent, shorten, significant, slug
from mmtrtvit.benchmark.report.plot import HEIGHT, WIDTH, plot
from mmtrtvit.benchmark.results import Row

__all__ = ['page']

FOLDER = Path(__file__).parent / 'page'
"""Template, style and script."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it says and what it sorts by ('' for last)."""

    text: str
    value: str
    numeric: bool


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: list[Cell]
    ours: bool
    noisy: bool


@dataclass(frozen=True)
class Sheet:
    """A table that can be sorted and filtered.

    Attributes:
        name: Its id.
        title: Its heading.
        heads: Heading of each column, and whether it is one of numbers.
        lines: Its rows.
        filters: Column, heading and values of each column worth choosing from.
        common: What all rows share and no column repeats.
    """

    name: str
    title: str
    heads: list[tuple[str, bool]]
    lines: list[Line]
    filters: list[tuple[int, str, list[str]]]
    common: str


def page(
    runs: Sequence[Run],
    used: Sequence[Quoted],
    claims: Sequence[Claim],
    scatters: Sequence[Scatter],
    heats: Sequence[Heat],
) -> str:
    """Write the page.

    Args:
        runs: In their order.
        used: The published figures of the backbones in the report.
        claims: What the paper of TRT-ViT claims.
        scatters: The plots of accuracy against latency.
        heats: Of the blocks.
    """
    script = (FOLDER / 'page.js').read_text(encoding='utf-8')
    groups = [group for run in runs for group in groups_of(run)]
    failed = [(group, row) for group in groups for row in group.failed]
    rows = [row for run in runs for row in run.results.rows]
    ours = any(is_ours(row.backbone) for row in rows)
    sheets = [
        _sheet('results', 'Results', [g for g in groups if not g.is_block], MEASURED),
        _sheet('blocks', 'Blocks', [g for g in groups if g.is_block], BLOCKS),
    ]
    return (
        _environment()
        .get_template('page.html.j2')
        .render(
            # the page runs its own script and no other, whatever a file of results holds
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            script=script,
            style=(FOLDER / 'page.css').read_text(encoding='utf-8'),
            runs=[(run, [group for group in groups if group.run is run]) for run in runs],
            sheets=[sheet for sheet in sheets if sheet.lines],
            plots=[(_plot_title(scatter, len(runs)), plot(scatter)) for scatter in scatters],
            formulas=FORMULAS,
            width=WIDTH,
            height=HEIGHT,
            bars=[_bars(group, rows) for group, rows in breakdowns(groups)],
            heats=heats,
            failed=failed,
            static=static_columns(row for _, row in failed),
            used=used,
            is_link=is_link,
            missing=MISSING,
            sources=SOURCES,
            note=note_of(rows),
            reconstruction=RECONSTRUCTION if ours else '',
            claims=claims if ours else [],
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        'clean': clean,
        'slug': slug,
        'significant': significant,
        'shorten': shorten,
        'first_upper': _first_upper,
    }
    return environment


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sheet(name: str, title: str, groups: Sequence[Group], columns: Sequence[Column]) -> Sheet:
    """Put the rows of all settings into one table; columns that say the same of all rows become one sentence."""
    pairs = [(group, row) for group in groups for row in group.measured]
    kept = [column for column in columns if any(column.text(row) != MISSING for _, row in pairs)]
    names, numbers = [c for c in kept if c.head in _NAMES], [c for c in kept if c.head not in _NAMES]
    common: list[str] = []
    filters: list[tuple[int, str, list[str]]] = []
    settings: list[tuple[str, _Reader]] = []
    for head, read in _SETTINGS:
        values = list(dict.fromkeys(read(group, row) for group, row in pairs))
        if len(values) > 1:
            filters.append((len(names) + len(settings), head, sorted(values)))
            settings.append((head, read))
        elif values and values != [MISSING] and head != 'Run':
            common.append(f'{head.lower()} {values[0]}')
    noted = any(notes_of(row) for _, row in pairs)
    heads = [(c.head, c.numeric) for c in names] + [(head, False) for head, _ in settings]
    heads += [(c.head, c.numeric) for c in numbers] + ([('Notes', False)] if noted else [])
    lines = []
    for group, row in pairs:
        cells = [_cell(column, row, group) for column in names]
        for head, read in settings:
            value = read(group, row)
            cells.append(Cell(value.partition(':')[0] if head == 'Run' else value, value, False))
        cells += [_cell(column, row, group) for column in numbers]
        cells += [Cell('; '.join(notes_of(row)), '; '.join(notes_of(row)), False)] if noted else []
        lines.append(Line(cells, is_ours(row.backbone), bool(row.noise)))
    return Sheet(name, title, heads, lines, filters, ', '.join(common))


def _run_text(group: Group, row: Row) -> str:
    return f'{group.run.number}: {group.run.title}'


_Reader = Callable[[Group, Row], str]
_NAMES = ('Model', 'Backbone', 'Median, ms', 'p10..p90, ms', 'Kind', 'Stage', 'ms per block')
_SETTINGS: tuple[tuple[str, _Reader], ...] = (
    ('Task', lambda group, row: clean(row.task)),
    ('Part', lambda group, row: clean(row.part)),
    ('Backend', lambda group, row: f'{backend_name(row.backend)} {clean(row.backend_version)}'.strip()),
    ('Device', lambda group, row: clean(row.device)),
    ('Precision', lambda group, row: clean(row.precision)),
    ('Size', lambda group, row: MISSING if group.is_block else shape_of(row)),
    ('Batch', lambda group, row: str(batch_of(row))),
    ('Threads', lambda group, row: MISSING if row.threads is None else str(row.threads)),
    ('Compared with', lambda group, row: group.baseline or MISSING),
    ('Run', _run_text),
)


def _cell(column: Column, row: Row, group: Group) -> Cell:
    text, value = column.text(row), column.value(row)
    if column.head == 'Times as fast' and row.ratio is None and clean(row.model) == group.baseline:
        text, value = 'baseline', 1.0
    return Cell(text, '' if value is None else str(value), column.numeric)


def _plot_title(scatter: Scatter, runs: int) -> str:
    group = scatter.group
    run = f'run {group.run.number}: ' if runs > 1 else ''
    return f'{run}{group.title}; {clean(scatter.metric)}'


def _bars(group: Group, rows: Sequence[Row]) -> dict[str, Any]:
    """Stacked bars of one setting, as shares of the longest."""
    parts = parts_of(rows)
    longest = max(sum((row.breakdown or {}).values()) for row in rows)
    bars = []
    for row in rows:
        spent = row.breakdown or {}
        total = sum(spent.values())
        pieces = [
            {
                'part': part,
                'width': f'{100 * spent[part] / longest:.3f}',
                'text': f'{significant(spent[part])} ms, {percent(spent[part] / total)}',
                'short': percent(spent[part] / total) if spent[part] > 0.055 * longest else '',
            }
            for part in parts
            if spent.get(part, 0.0) > 0
        ]
        words = f'{clean(row.model)}: ' + ', '.join(f'{piece["part"]} {piece["text"]}' for piece in pieces)
        bars.append({'row': row, 'pieces': pieces, 'total': significant(total), 'words': words})
    key = [(part, colour, text_colour(colour)) for part, colour in parts.items()]
    return {'group': group, 'bars': bars, 'key': key, 'colours': {part: pair for part, *pair in key}}
