"""What the tool of the blocks shows: tables on the terminal, Markdown, the heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmtrtvit.benchmark.blocks import typical_share
from mmtrtvit.benchmark.guidelines import NETWORKS, Check, Guideline, guidelines
from mmtrtvit.benchmark.report import charts, content, figures
from mmtrtvit.benchmark.results import Results, Row
from mmtrtvit.errors import UserError
from mmtrtvit.fileio import atomic_write_text

__all__ = ['draw_heat_map', 'markdown', 'put_into', 'show_blocks', 'show_guidelines', 'show_notes']


def block_rows_of(results: Results) -> list[Row]:
    """The rows of blocks."""
    return [row for row in results.rows if row.part == 'block']


def networks_of(results: Results) -> list[Row]:
    """The rows of whole backbones."""
    return [row for row in results.rows if row.part == 'backbone']


def show_blocks(console: Console, results: Results) -> None:
    """Print a table of the blocks and one of the backbones, as far as there are any."""
    facts, packages = results.conditions['hardware'], results.conditions['versions']
    words = [f'{name} {value}' for name, value in facts.items()]
    first = results.rows[0]
    console.print(
        f'{", ".join(words)}; {first.backend} {first.backend_version}, {first.precision}, batch '
        f'{first.input_shape[0]}; mmtrtvit {packages["mmtrtvit"]}, torch {packages["torch"]}; random weights',
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    blocks, networks = block_rows_of(results), networks_of(results)
    if blocks:
        console.print(_block_table(blocks))
        share = typical_share(blocks)
        console.print(
            'ms of one block: (stack of D - stack of 1) / (D - 1)'
            + ('' if share is None else f'; {share:.1%} of a deep stack (median of all) is not in its blocks'),
            markup=False, highlight=False,
        )  # fmt: skip
    if networks:
        console.print(_network_table(networks))


def _block_table(rows: Sequence[Row]) -> Table:
    title = 'one block, in engines that hold nothing else'
    names = ('block', 'stage', 'C', 'HxW', 'ms', 'p10..p90', 'M params', 'GFLOPs', 'TeraFLOPS', 'TeraParams')
    table = Table(*names, title=title)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = 'right', True
    for row in rows:
        extra = row.extra
        size = f'{row.input_shape[2]}x{row.input_shape[3]}'
        cells = [row.model + (' *' if row.noise else ''), str(extra['stage']), str(extra['width']), size]
        if 'block_ms' in extra:
            cells += [
                f'{extra["block_ms"]:.3f}',
                f'{extra["block_p10_ms"]:.3f}..{extra["block_p90_ms"]:.3f}',
                f'{extra["block_params"] / 1e6:.2f}',
                f'{extra["block_gflops"]:.3f}',
                f'{extra["teraflops"]:.4f}' if 'teraflops' in extra else '',
                f'{extra["teraparams"]:.5f}' if 'teraparams' in extra else '',
            ]
        else:
            cells.append('failed' if not extra.get('skipped') else 'left out')
        table.add_row(*cells)
    return table


def _network_table(rows: Sequence[Row]) -> Table:
    table = Table('backbone', 'depths', 'ms', 'p10..p90', 'M params', 'GFLOPs', title='whole backbones')
    for column in table.columns[2:]:
        column.justify, column.no_wrap = 'right', True
    for row in rows:
        time = row.latency
        depths = row.extra.get('depths') or row.extra.get('num_layers') or []
        table.add_row(
            row.model + (' *' if row.noise else ''),
            '-'.join(map(str, depths)),
            f'{time.median_ms:.2f}' if time else 'left out' if row.extra.get('skipped') else 'failed',
            f'{time.p10_ms:.2f}..{time.p90_ms:.2f}' if time else '',
            f'{row.params / 1e6:.2f}' if row.params else '',
            f'{row.gflops:.2f}' if row.gflops else '',
        )
    return table


def show_notes(console: Console, results: Results) -> None:
    """Print errors, what was left out, noise, and whether rounds are missing."""
    for row in results.failed:
        where = f', stage {row.extra["stage"]}' if 'stage' in row.extra else ''
        console.print(f'{row.model}{where}: {row.error}', markup=False, soft_wrap=True)
    for note in results.noise:
        console.print(f'noisy: {note}', markup=False, soft_wrap=True)
    done = max((len(row.rounds_ms) for row in results.rows), default=0)
    if results.interrupted or 0 < done < results.rounds:
        why = 'interrupted' if results.interrupted else 'the time limit (--limit) is reached'
        console.print(f'{why} after {done} of {results.rounds} rounds')


def show_guidelines(console: Console, found: Sequence[Guideline]) -> None:
    """Print the verdicts with their numbers."""
    for guideline in found:
        table = Table(
            'ratio', 'median', 'p10..p90', 'median at 95 %', 'verdict', title=f'{guideline.number}. {guideline.text}'
        )
        for column in table.columns[1:4]:
            column.justify, column.no_wrap = 'right', True
        for checks, decides in ((guideline.checks, True), (guideline.beside, False)):
            for check in checks:
                table.add_row(*_cells(check, decides))
            if checks and decides:
                table.add_section()
        console.print(table)
        console.print(f'verdict on this hardware: {guideline.verdict}', markup=False)
        console.print(f'tested: {guideline.tested}', markup=False, soft_wrap=True)
        console.print(f'not tested: {guideline.untested}', markup=False, soft_wrap=True)
        for note in guideline.missing:
            console.print(f'missing: {note}', markup=False, soft_wrap=True)


def _cells(check: Check, decides: bool) -> tuple[str, str, str, str, str]:
    low, middle, high = check.numbers
    sure = 'too few rounds' if math.isnan(check.interval[0]) else '{:.3f}..{:.3f}'.format(*check.interval)
    return check.text, f'{middle:.3f}', f'{low:.3f}..{high:.3f}', sure, check.verdict if decides else ''


def markdown(results: Results) -> str:
    """A run as Markdown: its conditions and command, the blocks, and, of a run of the guidelines, the verdicts."""
    first, facts = results.rows[0], results.conditions['hardware']
    packages = results.conditions['versions']
    device = facts.get('gpu') if first.device != 'cpu' else ''
    done = max((len(row.rounds_ms) for row in results.rows), default=0)
    lines = [
        f'{device or facts["cpu"]}, {facts["cores"]} cores; {first.backend} {first.backend_version}, '
        f'{first.precision}, batch {first.input_shape[0]}{content.and_threads(first)}; '
        f'{done} rounds of {results.calls} calls; '
        f'mmtrtvit {packages["mmtrtvit"]}, torch {packages["torch"]}; {results.date[:10]}.',
        '',
        '```',
        results.command,
        '```',
    ]
    if results.noise:
        lines += ['', f'The run was noisy: {"; ".join(results.noise)}.']
    return '\n'.join([*lines, '', *_tables(results)]) + '\n'


def _tables(results: Results) -> list[str]:
    if networks_of(results):
        return _verdict_lines(guidelines(results.rows), networks_of(results))
    rows = block_rows_of(results)
    kinds = list(dict.fromkeys(row.model for row in rows))
    stages = sorted({int(row.extra['stage']) for row in rows})
    sizes = {row.extra['stage']: f'{row.input_shape[2]}x{row.input_shape[3]}, C {row.extra["width"]}' for row in rows}
    head = [f'stage {stage}: {sizes[stage]}' for stage in stages]
    lines = []
    for title, name, digits in (
        ('ms of one block', 'block_ms', 3),
        ('TeraFLOPS', 'teraflops', 4),
        ('TeraParams', 'teraparams', 5),
    ):
        lines += [f'| {title} | {" | ".join(head)} |', f'|---|{"---:|" * len(stages)}']
        for kind in kinds:
            own = {row.extra['stage']: row for row in rows if row.model == kind}
            cells = [_cell(own.get(stage), name, digits) for stage in stages]
            lines.append(f'| {kind} | {" | ".join(cells)} |')
        lines.append('')
    missing = [f'{row.model}, stage {row.extra["stage"]}: {row.error}.' for row in rows if row.error]
    return [*lines, *(f'- {note}' for note in missing)] if missing else lines[:-1]


def _cell(row: Row | None, name: str, digits: int) -> str:
    value = row.extra.get(name) if row is not None else None
    return '' if value is None else f'{value:.{digits}f}'


def _verdict_lines(found: Sequence[Guideline], networks: Sequence[Row]) -> list[str]:
    lines = ['| backbone | depths | ms | M params | GFLOPs |', '|---|---|---:|---:|---:|']
    for row in networks:
        depths = '-'.join(map(str, row.extra.get('depths') or row.extra.get('num_layers') or []))
        time = f'{row.latency.median_ms:.2f}' if row.latency else ''
        facts = f'{(row.params or 0) / 1e6:.1f} | {row.gflops:.2f}' if row.gflops else ' | '
        lines.append(f'| {row.model} | {depths} | {time} | {facts} |')
    for guideline in found:
        lines += [
            '',
            f'**{guideline.number}. {guideline.text}: {guideline.verdict}.** '
            f'Tested: {guideline.tested}. Not tested: {guideline.untested}.',
            '',
            '| ratio | median | p10..p90 | median at 95 % | verdict |',
            '|---|---:|---:|---:|---|',
        ]
        for checks, decides in ((guideline.checks, True), (guideline.beside, False)):
            lines += [f'| {" | ".join(_cells(check, decides)).rstrip()} |' for check in checks]
        lines += ['', *(f'- Missing: {note}.' for note in guideline.missing)] if guideline.missing else []
    return lines


def section_of(results: Results) -> str:
    """Name of the marks in a document that a run belongs between: ``guidelines`` or ``blocks``.

    Raises:
        UserError: It is the run of a search.
    """
    networks = {row.model for row in networks_of(results)}
    if networks and not networks & {network.name for network in NETWORKS}:
        raise UserError('a search has no place in a document: take a run with --guidelines, or of blocks alone')
    return 'guidelines' if networks else 'blocks'


def put_into(results: Results, source: Path, document: Path) -> Path:
    """Put a run between its marks in a document, ``<!-- blocks: begin -->`` and ``<!-- blocks: end -->``.

    Args:
        results: The run.
        source: Its file, to be named.
        document: A Markdown file; the heat map of blocks goes to ``images/blocks.png`` beside it.

    Raises:
        UserError: The marks are not there.
        OSError: A file could not be written.
    """
    name = section_of(results)
    begin, end = f'<!-- {name}: begin -->', f'<!-- {name}: end -->'
    head, found, rest = document.read_text(encoding='utf-8').partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise UserError(f'{document}: has no marks "{begin}" and "{end}"')
    text = f'Results: `{source.name}`. {markdown(results)}'
    if name == 'blocks' and draw_heat_map(results, document.parent / 'images' / 'blocks.png'):
        text += '\n![TeraFLOPS and TeraParams by block and stage](images/blocks.png)\n'
    return atomic_write_text(document, f'{head}{begin}\n{text}{end}{tail}')


def draw_heat_map(results: Results, path: Path) -> Path | None:
    """Draw TeraFLOPS and TeraParams by kind and stage; None where no block was measured."""
    groups = [group for run in content.runs_of([results]) for group in content.groups_of(run)]
    found = charts.heats(groups)
    own = [heat for heat in found if heat.group is found[0].group]
    return figures.draw_heats(own, path) if own else None
