"""Measure whole models side by side: backbone, network, end to end; in any backend; in interleaved rounds.

`tools/benchmark.py report FILES...` renders results as Markdown, HTML and pictures; see docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import check_checkpoint
from mmtrtvit.apis.model import NO_CHECKPOINT
from mmtrtvit.apis.test import canvas_size
from mmtrtvit.benchmark.jobs import Job
from mmtrtvit.benchmark.models import MODEL_TASKS, deploy_task, find_model
from mmtrtvit.benchmark.results import Results, Row
from mmtrtvit.benchmark.run import Pace, Run, compare
from mmtrtvit.benchmark.subjects import MODULE_BACKENDS, Setting
from mmtrtvit.benchmark.tools import options
from mmtrtvit.deploy.backends import backend_names
from mmtrtvit.deploy.graphs.parts import PARTS

#: What is measured without ``--models``: TRT-ViT, the peers that its paper compares with, and the usual ones.
DEFAULT_MODELS = ('trtvit-c', 'twins-pcpvt-b', 'twins-svt-s', 'twins-svt-b', 'swin-t', 'resnet-50')
#: Height and width without ``--shape``, by task: on a GPU those that papers time, on a CPU what ends in minutes.
SHAPES = {
    'cpu': {'classification': (224, 224)},
    'gpu': {'classification': (224, 224), 'detection': (800, 1344), 'instance-seg': (800, 1344)},
}
USUAL_SHAPE = (512, 512)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/benchmark.py``."""
    parser = argparse.ArgumentParser(
        prog='benchmark.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--models', nargs='+', default=list(DEFAULT_MODELS), metavar='MODEL',
                        help='backbones (trtvit-c), configs of the zoo (retinanet_swin-t) or config files; default: '
                        + ' '.join(DEFAULT_MODELS))  # fmt: skip
    parser.add_argument('--task', choices=MODEL_TASKS, default='mask_rcnn', help='which model of a backbone')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=['backbone', 'end2end'],
                        help='what is timed; default: backbone end2end')  # fmt: skip
    parser.add_argument('--backend', nargs='+', choices=backend_names(), metavar='BACKEND',
                        help=f'of {", ".join(backend_names())}; default: the fastest that runs here')  # fmt: skip
    parser.add_argument('--precision', nargs='+', choices=('fp32', 'fp16', 'int8'),
                        help='default: fp16 on a GPU, fp32 on a CPU')  # fmt: skip
    parser.add_argument('--shape', type=canvas_size, metavar='HxW', help='of the canvas; default 512x512 on a CPU, '
                        "the papers' on a GPU (800x1344 for detectors)")  # fmt: skip
    parser.add_argument('--batch', nargs='+', type=int, default=[1], help='images a call; several are several rows')
    parser.add_argument('--baseline', help='model that the others are compared with; default: the first of --models')
    parser.add_argument('--copies', action='store_true', help='time copying to and from the GPU too')
    parser.add_argument('--cuda-graph', action='store_true', help='launch engines as one CUDA graph each (a GPU only)')
    parser.add_argument(
        '--checkpoint', default=NO_CHECKPOINT, help="weights of a single model; default 'none': random ones"
    )
    parser.add_argument('--no-breakdown', action='store_true', help='leave out where the time goes')
    options.add_pace_arguments(parser, 2, 'work_dirs/benchmark')
    args = parser.parse_args(argv)
    options.check_pace(parser, args, batch=1)
    if args.checkpoint != NO_CHECKPOINT and len(args.models) > 1:
        parser.error('--checkpoint is for a single model')
    return args


def make_jobs(args: argparse.Namespace) -> list[Job]:
    """Every combination that the command line asks for."""
    models = [find_model(word, args.task) for word in args.models]
    jobs = []
    for backend in args.backend or [options.default_backend()]:
        device = options.resolve_device(args.device, backend)
        # the backend of that name is one already, without the option
        graph = args.cuda_graph and backend not in MODULE_BACKENDS
        if graph and device == 'cpu':
            raise UserError(f'--cuda-graph: {backend} runs on the CPU here, and CUDA graphs run on a GPU')
        shapes = SHAPES['cpu' if device == 'cpu' else 'gpu']
        precisions = args.precision or ['fp32' if device == 'cpu' else 'fp16']
        for part, precision, batch, model in product(args.parts, precisions, args.batch, models):
            shape = args.shape or shapes.get(deploy_task(model.cfg), USUAL_SHAPE)
            setting = Setting(backend, precision, shape, batch, device, args.threads, args.copies, graph)
            jobs.append(Job(model, part, setting, args.checkpoint))
    return jobs


def run(argv: Sequence[str]) -> Results:
    """Measure as the command line says, print and keep the results."""
    args = parse_args(argv)
    console = options.make_console()
    if args.checkpoint != NO_CHECKPOINT:
        check_checkpoint(args.checkpoint)
    jobs = make_jobs(args)
    wanted = args.baseline or args.models[0]
    baseline = next((job.model.name for job in jobs if wanted in (job.model.name, job.model.backbone)), '')
    if not baseline:
        baseline = find_model(wanted, args.task).name
        if baseline not in {job.model.name for job in jobs}:
            raise UserError(f'--baseline {wanted} is not among the models that are measured')
    device = next((job.setting.device for job in jobs if job.setting.device != 'cpu'), 'cpu')
    calls = args.calls or (1 if device == 'cpu' else 20)
    with options.progress_bar(console) as progress:
        measuring = Run(
            Pace(args.rounds, args.warmup, calls, 60 * args.limit),
            Path(args.out),
            device,
            shlex.join(['python', 'tools/benchmark.py', *argv]),
            progress=progress,
            rows_of=partial(compare, baseline=baseline),
        )
        measuring.measure([job.entry() for job in jobs], breakdown=not args.no_breakdown)
    results, path = measuring.results, measuring.path
    show(console, results)
    console.print(f'results: {path}', markup=False, soft_wrap=True)
    console.print(f'report:  python tools/benchmark.py report {shlex.quote(str(path))}', markup=False, soft_wrap=True)
    return results


def show(console: Console, results: Results) -> None:
    """Print the conditions, a table a setting, the noise and the errors."""
    facts, packages = results.conditions['hardware'], results.conditions['versions']
    console.print(
        ', '.join(f'{name} {value}' for name, value in facts.items()) + f'; mmtrtvit {packages["mmtrtvit"]}, '
        f'torch {packages["torch"]}; random weights unless a checkpoint was given',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    settings = list(dict.fromkeys(row.setting for row in results.rows))
    for setting in settings:
        rows = [row for row in results.rows if row.setting == setting]
        console.print(_table(rows))
        console.print(f'  timed: {rows[0].inside}', markup=False, highlight=False, soft_wrap=True)
    for row in results.failed:
        console.print(
            f'{row.model} {row.part} {row.backend} {row.precision}: {row.error}', markup=False, soft_wrap=True
        )
    for note in results.noise:
        console.print(f'noisy: {note}', markup=False, soft_wrap=True)
    done = max((len(row.rounds_ms) for row in results.rows), default=0)
    if results.interrupted or 0 < done < results.rounds:
        why = 'interrupted' if results.interrupted else 'the time limit (--limit) is reached'
        console.print(f'{why} after {done} of {results.rounds} rounds')


def _table(rows: list[Row]) -> Table:
    first = rows[0]
    shape = 'x'.join(map(str, first.input_shape))
    base = next((row.ratio.baseline for row in rows if row.ratio), '')
    title = f'{first.part}, {first.backend} {first.backend_version}, {first.device}, {first.precision}, {shape}'
    speed = f'speed of {base}' if base else 'ratio'
    table = Table('model', 'ms', 'p10..p90', 'images/s', speed, 'M params', 'GFLOPs', 'layers', 'MiB', title=title)
    for column in table.columns:
        column.no_wrap = column.header != 'model'
        column.justify = 'left' if column.header == 'model' else 'right'
    for row in rows:
        time, ratio = row.latency, row.ratio
        table.add_row(
            row.model + (' *' if row.noise else ''),
            f'{time.median_ms:.2f}' if time else 'failed',
            f'{time.p10_ms:.2f}..{time.p90_ms:.2f}' if time else '',
            f'{row.images_per_second:.1f}' if row.images_per_second else '',
            f'{ratio.median:.2f} ({ratio.p10:.2f}..{ratio.p90:.2f})' if ratio else '1' if row.model == base else '',
            f'{row.params / 1e6:.1f}' if row.params else '',
            f'{row.gflops:.1f}' if row.gflops else '',
            str(row.layers or row.nodes or ''),
            f'{row.peak_memory_mib:.0f}' if row.peak_memory_mib is not None else '',
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: status 1 after a model failed, 130 after Ctrl-C; see :func:`mmtrtvit.apis.errors.run_tool`."""
    run_tool(_main, argv)


def _main(argv: Sequence[str]) -> None:
    if argv and argv[0] == 'report':
        from mmtrtvit.benchmark.tools.report import run as report

        report(argv[1:])
        return
    results = run(argv)
    if results.interrupted:
        raise SystemExit(130)
    if results.failed:
        raise SystemExit(1)
