"""Measure blocks alone, put TRT-ViT's guidelines to the test, or search depths under a latency budget.

`tools/analyze_blocks.py show FILE` prints an earlier run again and draws its heat map; see docs/guidelines.md.
"""

from __future__ import annotations

import argparse
import pprint
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.test import canvas_size
from mmtrtvit.benchmark.block_kinds import KINDS, OWN_KINDS, STRIDES, WIDTHS, find_kind
from mmtrtvit.benchmark.block_report import (
    draw_heat_map,
    markdown,
    put_into,
    show_blocks,
    show_guidelines,
    show_notes,
)
from mmtrtvit.benchmark.blocks import block_probes, block_rows, find_row
from mmtrtvit.benchmark.guidelines import NETWORKS, guidelines, network_probes
from mmtrtvit.benchmark.probes import SKIPPED, Probe
from mmtrtvit.benchmark.results import Results, read_results
from mmtrtvit.benchmark.run import Pace, Run
from mmtrtvit.benchmark.search import MAX_DEPTHS, Costs, Proposal, best_depths
from mmtrtvit.benchmark.subjects import Setting
from mmtrtvit.benchmark.tools import options
from mmtrtvit.deploy.backends import backend_names
from mmtrtvit.fileio import atomic_write_text
from mmtrtvit.models import ARCHS, TRTViT

#: Without ``--kinds``: ours and the peers', one of each idea (PVT's is that of Twins-PCPVT, PVTv2's nearly so).
DEFAULT_KINDS = tuple(name for name in KINDS if name not in ('PVT', 'PVTv2'))
#: The backbones of the guidelines.
NAMES = frozenset(network.name for network in NETWORKS)
#: Height and width without ``--shape``.
SHAPES = {'cpu': (224, 224), 'gpu': (512, 512)}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/analyze_blocks.py``."""
    parser = argparse.ArgumentParser(
        prog='analyze_blocks.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument('--guidelines', action='store_true', help='judge the four guidelines by speed on this machine')
    mode.add_argument('--search', action='store_true', help='find the depths that bring the most within --budget-ms')
    parser.add_argument('--backend', choices=backend_names(), help='default: the fastest that runs here')
    parser.add_argument('--precision', choices=('fp32', 'fp16'), help='default: fp16 on a GPU, fp32 on a CPU')
    parser.add_argument('--shape', type=canvas_size, metavar='HxW', help='of the image; default 224x224 on a CPU, '
                        '512x512 on a GPU')  # fmt: skip
    parser.add_argument('--batch', type=int, default=1, help='images a call (1)')
    parser.add_argument('--kinds', nargs='+', metavar='KIND', help=f'blocks, of {", ".join(KINDS)}; default: all but '
                        'PVT and PVTv2; with --guidelines ours')  # fmt: skip
    parser.add_argument('--stages', nargs='+', type=int, choices=(1, 2, 3, 4), default=[1, 2, 3, 4], metavar='STAGE',
                        help='1 to 4: strides 4, 8, 16, 32 (all)')  # fmt: skip
    parser.add_argument('--depth', type=int, default=3, help='blocks of the deep stack (3); 1 measures a single block '
                        'with all that an engine pays once')  # fmt: skip
    parser.add_argument(
        '--channels',
        nargs=4,
        type=int,
        default=list(WIDTHS),
        metavar='C',
        help=f"widths of the four stages; default TRT-ViT-C's: {' '.join(map(str, WIDTHS))}",
    )
    options.add_pace_arguments(parser, 10, 'work_dirs/blocks')
    search = parser.add_argument_group('with --search')
    search.add_argument('--budget-ms', type=float, metavar='MS', help='what the backbone may take')
    search.add_argument('--maximise', choices=('gflops', 'params'), default='gflops', help='what is wanted (gflops)')
    search.add_argument('--blocks', nargs=4, choices=OWN_KINDS, default=list(ARCHS['c']['blocks']), metavar='KIND',
                        help="kind of each stage's blocks; default TRT-ViT's")  # fmt: skip
    search.add_argument('--min-depths', nargs=4, type=int, default=[1, 1, 1, 1], metavar='N', help='1 1 1 1')
    search.add_argument('--max-depths', nargs=4, type=int, default=list(MAX_DEPTHS), metavar='N',
                        help=' '.join(map(str, MAX_DEPTHS)))  # fmt: skip
    search.add_argument('--tolerance', type=float, default=0.05, help='share of the budget by which the built backbone '
                        'may break it before the exit status is 1 (0.05)')  # fmt: skip
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    options.check_pace(parser, args, batch=1, depth=1, tolerance=0, channels=1, min_depths=1)
    if args.shape is not None and min(args.shape) < max(STRIDES):
        height, width = args.shape
        parser.error(f'--shape {height}x{width}: at least {max(STRIDES)} each are needed, the stride of stage 4')
    if args.search:
        if args.budget_ms is None or not args.budget_ms > 0:
            parser.error('--search needs --budget-ms, above 0')
        if args.kinds:
            parser.error('--search measures --blocks: leave --kinds out')
        if any(few > many for few, many in zip(args.min_depths, args.max_depths, strict=True)):
            parser.error(f'--min-depths {args.min_depths} must not lie above --max-depths {args.max_depths}')
    elif args.budget_ms is not None:
        parser.error('--budget-ms is for --search')


@dataclass
class _Outcome:
    """What a run ends with.

    Attributes:
        results: All rows.
        path: Their file.
        broken: Why the exit status is 1 though nothing failed; '' for nothing.
        proposal: Of a search.
    """

    results: Results
    path: Path
    broken: str = ''
    proposal: dict[str, Any] = field(default_factory=dict)


def run(argv: Sequence[str]) -> _Outcome:
    """Measure as the command line says, print and keep the results."""
    args = parse_args(argv)
    console = options.make_console()
    setting, pace = make_setting(args)
    for kind in args.kinds or ():
        find_kind(kind)  # an unknown one is said before anything is built
    with options.progress_bar(console) as progress:
        measuring = Run(
            pace,
            Path(args.out),
            setting.device,
            shlex.join(['python', 'tools/analyze_blocks.py', *argv]),
            '_search' if args.search else '_guidelines' if args.guidelines else '_blocks',
            progress,
            lambda rows: [*block_rows(rows), *(row for row in rows if row.part != 'block')],
        )
        outcome = _search(args, setting, measuring) if args.search else _measure(args, setting, measuring)
    show(console, outcome.results, outcome.path, args.guidelines)
    for name, value in outcome.proposal.items():
        console.print(f'{name}: {value}', markup=False, highlight=False, soft_wrap=True)
    return outcome


def make_setting(args: argparse.Namespace) -> tuple[Setting, Pace]:
    """Backend, device, precision and pace, with what was left to choose."""
    backend = args.backend or options.default_backend()
    device = options.resolve_device(args.device, backend)
    place = 'cpu' if device == 'cpu' else 'gpu'
    precision = args.precision or ('fp32' if place == 'cpu' else 'fp16')
    setting = Setting(backend, precision, args.shape or SHAPES[place], args.batch, device, args.threads)
    calls = args.calls or (1 if place == 'cpu' else 20)
    return setting, Pace(args.rounds, args.warmup, calls, 60 * args.limit)


def _measure(args: argparse.Namespace, setting: Setting, measuring: Run) -> _Outcome:
    kinds = args.kinds or (OWN_KINDS if args.guidelines else DEFAULT_KINDS)
    probes = block_probes(kinds, [stage - 1 for stage in args.stages], setting.shape, args.depth, args.channels)
    if args.guidelines:
        probes += network_probes(setting.shape)
    measuring.measure([probe.entry(setting) for probe in probes])
    return _Outcome(measuring.results, measuring.path)


def _search(args: argparse.Namespace, setting: Setting, measuring: Run) -> _Outcome:
    probes = [_backbone(args, setting, (1, 1, 1, 1))]
    for stage, kind in enumerate(args.blocks):
        probes += block_probes([kind], [stage], setting.shape, args.depth, args.channels)
    entries = [probe.entry(setting) for probe in probes]
    if not measuring.measure(entries):
        return _Outcome(measuring.results, measuring.path)
    try:
        costs = measured_costs(args, measuring.results)
        best = best_depths(costs, args.budget_ms, args.min_depths, args.max_depths)
    except UserError as error:
        raise UserError(f'{error} (what was measured is in {measuring.path})') from error
    built, whole = entries[0], True
    if best.depths != (1, 1, 1, 1):
        built = _backbone(args, setting, best.depths).entry(setting)
        whole = measuring.measure([built])
    row = built.row
    if not whole or row.error or row.latency is None:
        return _Outcome(measuring.results, measuring.path)
    median = row.latency.median_ms
    row.extra |= {'budget_ms': args.budget_ms, 'predicted_ms': round(best.latency_ms, 4)}
    row.extra['prediction_error'] = round(best.latency_ms / median - 1, 4)
    measuring.keep()
    broken = ''
    if median > args.budget_ms * (1 + args.tolerance):
        over = median / args.budget_ms - 1
        broken = f'the built backbone breaks the budget by {over:.1%}, more than --tolerance {args.tolerance:g}'
    return _Outcome(measuring.results, measuring.path, broken, _describe(args, best, median))


def _backbone(args: argparse.Namespace, setting: Setting, depths: tuple[int, ...]) -> Probe:
    """A TRTViT of the given depths."""
    arch = {'channels': list(args.channels), 'depths': list(depths), 'blocks': list(args.blocks)}
    name = f'TRTViT {"-".join(map(str, depths))}'
    return Probe(name, name, 'backbone', (3, *setting.shape), partial(_build, arch), extra=arch)


def _build(arch: dict[str, Any]) -> TRTViT:
    try:
        return TRTViT(arch).switch_to_deploy()
    except ValueError as error:
        raise UserError(f'--channels and --blocks make no backbone: {error}') from error


def measured_costs(args: argparse.Namespace, results: Results) -> Costs:
    """The costs that the search adds up, from the rows of a run.

    Raises:
        UserError: A block or the base was not measured; says which and why.
    """
    base = next((row for row in results.rows if row.part == 'backbone'), None)
    if base is None or base.latency is None or base.error:
        raise UserError(f'the backbone of depths 1, 1, 1, 1 could not be measured: {base.error if base else ""}')
    blocks = [find_row(results.rows, kind, stage) for stage, kind in enumerate(args.blocks)]
    for stage, (kind, row) in enumerate(zip(args.blocks, blocks, strict=True)):
        if row is None:
            failed = next((r for r in results.rows if r.model == kind and r.extra.get('stage') == stage + 1), None)
            why = failed.error or failed.noise if failed else 'not measured'
            raise UserError(f'{kind}, stage {stage + 1}: {why}')
    found = [row for row in blocks if row is not None]
    if args.maximise == 'params':
        values = [base.params or 0, *(int(row.extra['block_params']) for row in found)]
    else:
        values = [round(1e9 * gflops) for gflops in (base.gflops or 0.0, *(row.extra['block_gflops'] for row in found))]
    one, two, three, four = (float(row.extra['block_ms']) for row in found)
    return Costs(
        base.latency.median_ms, (one, two, three, four), values[0], (values[1], values[2], values[3], values[4])
    )


def _describe(args: argparse.Namespace, best: Proposal, median_ms: float) -> dict[str, Any]:
    amount = f'{best.value / 1e6:.1f} M parameters' if args.maximise == 'params' else f'{best.value / 1e9:.2f} GFLOPs'
    arch = {'channels': tuple(args.channels), 'depths': best.depths, 'blocks': tuple(args.blocks)}
    return {
        'proposal': f'{amount}, the most of {best.tried} combinations of the first three stages',
        'predicted': f'{best.latency_ms:.2f} ms for a budget of {args.budget_ms:g} ms',
        'built and measured': f'{median_ms:.2f} ms; the prediction is off by {best.latency_ms / median_ms - 1:+.1%}',
        'for a config': f'backbone=dict(type="TRTViT", arch={pprint.pformat(arch, width=10_000, sort_dicts=False)})'
        .replace('"', "'"),
    }  # fmt: skip


def show(console: Console, results: Results, path: Path, judged: bool) -> None:
    """Print tables and notes, judge if asked, draw the heat map beside the results."""
    if results.rows:
        show_blocks(console, results)
        if judged:
            show_guidelines(console, guidelines(results.rows))
        show_notes(console, results)
    console.print(f'results: {path}', markup=False, soft_wrap=True)
    if any('teraflops' in row.extra for row in results.rows):
        picture = draw_heat_map(results, path.with_suffix('.png'))
        console.print(f'heat map: {picture}', markup=False, soft_wrap=True)
    if judged and results.rows:
        verdicts = atomic_write_text(path.with_suffix('.md'), markdown(results))
        console.print(f'verdicts: {verdicts}', markup=False, soft_wrap=True)


def show_file(argv: Sequence[str]) -> None:
    """``show FILE``: an earlier run again."""
    parser = argparse.ArgumentParser(prog='analyze_blocks.py show', description='Print an earlier run again.')
    parser.add_argument('file', help='results of this tool')
    parser.add_argument('--into', metavar='DOCUMENT', help='put it into a Markdown file instead, between the marks '
                        'for it, as in docs/guidelines.md')  # fmt: skip
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    path = Path(args.file)
    results = read_results(path)
    if not any(row.part == 'block' for row in results.rows):
        raise UserError(f'{path}: no blocks were measured in it; tools/benchmark.py report renders other results')
    if args.into:
        print(put_into(results, path, Path(args.into)))
        return
    show(options.make_console(), results, path, any(row.model in NAMES for row in results.rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: status 1 after a failure or a broken budget, 130 after Ctrl-C."""
    run_tool(_main, argv)


def _main(argv: Sequence[str]) -> None:
    if argv and argv[0] == 'show':
        show_file(argv[1:])
        return
    outcome = run(argv)
    if outcome.results.interrupted:
        raise SystemExit(130)
    if outcome.broken:
        print(outcome.broken)
        raise SystemExit(1)
    if any(not row.extra.get(SKIPPED) for row in outcome.results.failed):
        raise SystemExit(1)
