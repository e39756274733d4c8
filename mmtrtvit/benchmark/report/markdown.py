"""A report as Markdown: conditions, tables, what was timed, what failed, sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from mmtrtvit.benchmark.published import Claim
from mmtrtvit.benchmark.report.accuracies import RECONSTRUCTION, Quoted, is_ours, note_of
from mmtrtvit.benchmark.report.charts import (
    FORMULAS,
    Heat,
    breakdowns,
    parts_of,
    stage_of,
)
from mmtrtvit.benchmark.report.columns import NOISY, Column, columns_of, notes_of, static_columns
from mmtrtvit.benchmark.report.content import BLOCK, Group, Run, groups_of
from mmtrtvit.benchmark.report.numbers import MISSING, clean, percent, shorten, significant
from mmtrtvit.benchmark.results import Row

__all__ = ['code', 'document', 'escape', 'group_table', 'table']

_SPECIAL = re.compile(r'([\\`*_{}\[\]<>#|~!&$])')
SOURCES = 'Published figures and their sources'
Pictures = Mapping[str, Sequence[tuple[str, str]]]
"""Name of a group to the file names of its pictures and their descriptions."""


def document(
    runs: Sequence[Run], used: Sequence[Quoted], claims: Sequence[Claim], heats: Sequence[Heat], pictures: Pictures
) -> str:
    """Write the whole report.

    Args:
        runs: In their order.
        used: The published figures of the backbones in the report.
        claims: What the paper of TRT-ViT claims.
        heats: Of the blocks.
        pictures: What was drawn.
    """
    lines = ['# Benchmark', '', *_introduction(runs)]
    for run in runs:
        lines += _run(run, len(runs), heats, pictures)
    lines += _sources(runs, used, claims)
    return '\n'.join(lines).rstrip() + '\n'


def group_table(group: Group) -> str:
    """The table of one setting, alone."""
    columns = columns_of(group)
    cells = [[_cell(column, row, group) for column in columns] for row in group.measured]
    return table([column.head for column in columns], cells, [column.numeric for column in columns])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Lay Markdown out as a table; the cells are Markdown already."""
    lines = [heads, ['--:' if right else '---' for right in numeric], *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def escape(text: object) -> str:
    """Write foreign text so that Markdown and HTML take none of it for theirs."""
    return _SPECIAL.sub(r'\\\1', clean(text))


def code(text: object) -> str:
    """Write foreign text as code, also in a table, whatever it holds."""
    line = clean(text)
    if not line:
        return ''
    fence = '`' * (1 + max((len(run) for run in re.findall(r'`+', line)), default=0))
    space = ' ' if line.startswith('`') or line.endswith('`') else ''
    return fence + space + line.replace('|', '\\|') + space + fence


def _introduction(runs: Sequence[Run]) -> list[str]:
    text = [
        'Latencies are of the hardware and the versions named with each table, and of no other. Ratios are between '
        'rows of one run only, from pairs within a round. Nothing is left out of medians and percentiles.'
    ]
    if any(is_ours(row.backbone) for run in runs for row in run.results.rows):
        text.append(f'{RECONSTRUCTION}.')
    return [' '.join(text), '']


def _run(run: Run, of: int, heats: Sequence[Heat], pictures: Pictures) -> list[str]:
    head = f'Run {run.number}: {run.title}' if of > 1 else run.title
    lines = [f'## {escape(head)}', '']
    for warning in run.warnings:
        lines += [f'> **{escape(warning)}**', '']
    if run.results.command:
        lines += ['The command that repeats it:', '', *_block(run.results.command), '']
    for group in groups_of(run):
        lines += _group(group, [heat for heat in heats if heat.group.name == group.name], pictures)
    return lines


def _group(group: Group, heats: Sequence[Heat], pictures: Pictures) -> list[str]:
    lines = [f'### {escape(group.title)}', '']
    lines += [f'- {name}: {escape(value)}' for name, value in group.conditions()]
    lines.append('')
    if group.measured:
        lines += [group_table(group), '']
        lines += [f'{line}\n' for line in _below(group)]
    for heat in heats:
        lines += [f'{heat.title} by stage:', '', _heat_table(heat), '']
    for _, rows in breakdowns([group]):
        lines += ["Where the time goes, ms of one call by the backend's own profiler, and share of their sum:", '']
        lines += [_breakdown_table(rows), '']
    for file, description in pictures.get(group.name, ()):
        lines += [f'![{escape(description)}]({quote(file)})', '']
    if group.failed:
        lines += ['Without a measurement:', '', _failed_table(group), '']
    return lines


def _below(group: Group) -> list[str]:
    """What stands below a table."""
    lines = []
    if group.baseline:
        lines.append(
            f'Times as fast: as {code(group.baseline)}, median of the rounds and their 10th to 90th percentile.'
        )
    for region, models in group.inside():
        whose = f' of {escape(models)}' if models else ''
        lines.append(f'Inside the timed region{whose}: {escape(region) or MISSING}.')
    lines += [f'{FORMULAS}.'] if group.is_block else []
    memory = {clean(row.memory) for row in group.measured if row.memory and row.peak_memory_mib is not None}
    lines += [f'Peak memory: {escape(text)}.' for text in sorted(memory)]
    lines += [
        f'{NOISY if row.noise else "Note,"} {_name(row)}: {escape("; ".join(notes))}.'
        for row, notes in ((row, notes_of(row)) for row in group.measured)
        if notes
    ]
    return lines


def _name(row: Row) -> str:
    return f'{code(row.model)}, {escape(stage_of(row))}' if row.part == BLOCK else code(row.model)


def _cell(column: Column, row: Row, group: Group) -> str:
    text = column.text(row)
    if column.head in ('Model', 'Kind'):
        name = code(text)
        return f'**{name}**' if is_ours(row.backbone) else name
    if column.head == 'Times as fast' and row.ratio is None and clean(row.model) == group.baseline:
        return 'baseline'
    return text if column.numeric else escape(text)


def _failed_table(group: Group) -> str:
    columns = static_columns(group.failed)
    cells = [
        [code(row.model), *(column.text(row) for column in columns), code(shorten(row.error or 'not measured', 400))]
        for row in group.failed
    ]
    heads = ['Model', *(column.head for column in columns), 'Error']
    return table(heads, cells, [False, *(True for _ in columns), False])


def _heat_table(heat: Heat) -> str:
    cells = [[code(kind), *(heat.text(heat.values.get((kind, stage))) for stage in heat.stages)] for kind in heat.kinds]
    return table(['Kind', *(escape(stage) for stage in heat.stages)], cells, [False] + [True] * len(heat.stages))


def _breakdown_table(rows: Sequence[Row]) -> str:
    parts = list(parts_of(rows))
    cells = []
    for row in rows:
        spent = row.breakdown or {}
        total = sum(spent.values())
        shares = [
            f'{significant(spent[part])} ({percent(spent[part] / total)})' if part in spent else MISSING
            for part in parts
        ]
        cells.append([code(row.model), *shares, significant(total)])
    return table(['Model', *(escape(part) for part in parts), 'Sum'], cells, [False] + [True] * (len(parts) + 1))


def _sources(runs: Sequence[Run], used: Sequence[Quoted], claims: Sequence[Claim]) -> list[str]:
    if not used:
        return []
    rows = [row for run in runs for row in run.results.rows]
    lines = [f'## {SOURCES}', '', f"Other people's figures, on other hardware. In the plots: {note_of(rows)}.", '']
    cells = [
        [
            escape(entry.name),
            escape(entry.metric),
            f'{entry.value:g} {escape(entry.unit)}',
            _link(entry.source, entry.url),
            escape(entry.note) or MISSING,
        ]
        for entry in used
    ]
    heads = ['Backbone', 'Metric', 'Value', 'Source', 'Note']
    lines += [table(heads, cells, [False, False, True, False, False]), '']
    if any(is_ours(row.backbone) for row in rows):
        lines += [f'- Claimed: {escape(claim.text)} {_link(claim.source.text, claim.source.url)}' for claim in claims]
    return [*lines, '']


def _link(text: str, url: str) -> str:
    name = escape(text)
    return f'[{name}](<{quote(url, safe=":/?=&%#+,;@~.-_")}>)' if is_link(url) else name


def is_link(url: str) -> bool:
    """Whether an address may be clicked on: a page of the web, not a script."""
    return url.startswith(('https://', 'http://'))


def _block(text: str) -> list[str]:
    fence = '`' * max(3, 1 + max((len(run) for run in re.findall(r'`+', text)), default=0))
    return [f'{fence}sh', clean(text), fence]
