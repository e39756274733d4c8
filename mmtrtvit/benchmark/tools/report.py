"""Render results of tools/benchmark.py and tools/analyze_blocks.py: Markdown, a page for the browser, pictures.

Runs stand side by side but are never compared: ratios are between rows of one run only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmtrtvit.apis.errors import UserError
from mmtrtvit.benchmark.report import rebase, render, select
from mmtrtvit.benchmark.results import Results, read_results

OUT = 'work_dirs/benchmark-report'


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/benchmark.py report``."""
    parser = argparse.ArgumentParser(
        prog='benchmark.py report', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='+', metavar='FILE', help='results, as tools/benchmark.py wrote them')
    parser.add_argument('--out', default=OUT, metavar='DIR', help=f'folder to write to (default {OUT})')
    parser.add_argument('--baseline', metavar='MODEL', help='compare with this model or backbone instead of the one '
                        'that the run was started with')  # fmt: skip
    parser.add_argument('--task', nargs='+', default=[], metavar='TASK', help='only rows of these tasks')
    parser.add_argument('--part', nargs='+', default=[], metavar='PART', help='only rows of these parts')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> list[Path]:
    """Read, choose, render; print what was written and what is to be taken with care."""
    args = parse_args(argv)
    results = [_prepared(file, args) for file in args.files]
    if not any(run.rows for run in results):
        raise UserError(_nothing_left(args))
    files = render(results, Path(args.out))
    console = Console(highlight=False)
    for file, run_ in zip(args.files, results, strict=True):
        for remark in _remarks(run_):
            console.print(f'warning: {file}: {remark}', style='yellow', markup=False, soft_wrap=True)
    for written in files:
        console.print(f'  {written}', markup=False, soft_wrap=True)
    return files


def _prepared(file: str, args: argparse.Namespace) -> Results:
    results = read_results(file)
    if args.baseline:
        try:
            results = rebase(results, args.baseline)
        except UserError as error:
            raise UserError(f'{file}: {error}') from None
    return select(results, args.task, args.part)


def _nothing_left(args: argparse.Namespace) -> str:
    rows = [row for file in args.files for row in read_results(file).rows]
    if not rows:
        return f'{", ".join(args.files)}: no rows'
    tasks, parts = sorted({row.task for row in rows}), sorted({row.part for row in rows})
    asked = ' '.join([*(['--task', *args.task] if args.task else []), *(['--part', *args.part] if args.part else [])])
    return f'{asked}: no such rows; the files have the tasks {", ".join(tasks)} and the parts {", ".join(parts)}'


def _remarks(results: Results) -> list[str]:
    found = ['was interrupted'] if results.interrupted else []
    found += [f'noisy: {reason}' for reason in results.noise]
    noisy = sum(bool(row.noise) for row in results.rows)
    found += [f'{noisy} of {len(results.rows)} rows are noisy'] if noisy else []
    failed = len(results.failed)
    return found + ([f'{failed} of {len(results.rows)} rows failed'] if failed else [])
