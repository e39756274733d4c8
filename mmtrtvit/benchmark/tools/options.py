"""What the command lines of the tools that measure have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from mmtrtvit.apis.test import find_torch_device
from mmtrtvit.benchmark.run import Progress
from mmtrtvit.benchmark.subjects import choose_device
from mmtrtvit.deploy.backends import get_backend

__all__ = [
    'add_pace_arguments',
    'check_pace',
    'default_backend',
    'make_console',
    'progress_bar',
    'resolve_device',
]

#: Columns of the tables where the output is no terminal.
WIDTH = 140


def add_pace_arguments(parser: argparse.ArgumentParser, limit: float, out: str) -> None:
    """Add how often is measured, where, and where the results go.

    Args:
        parser: The tool's.
        limit: Default of ``--limit``, minutes.
        out: Default of ``--out``.
    """
    parser.add_argument('--rounds', type=int, default=20, help='how often everything is measured (20)')
    parser.add_argument('--warmup', type=int, default=2, help='calls of each before the first round (2)')
    parser.add_argument('--calls', type=int, help='calls in a row within a round; default: 1 on a CPU, 20 on a GPU')
    parser.add_argument(
        '--limit',
        type=float,
        default=limit,
        metavar='MINUTES',
        help=f'no new round begins after this; at least one is measured ({limit:g})',
    )
    parser.add_argument('--threads', type=int, help="CPU threads; default: the backend's choice")
    parser.add_argument('--device', help='cpu or cuda:0; default: the GPU where the backend can run on it')
    parser.add_argument('--out', default=out, help=f'folder for the results ({out})')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')


def check_pace(parser: argparse.ArgumentParser, args: argparse.Namespace, **more: int) -> None:
    """End with status 2 where a number is too small; ``more`` is the least value of the tool's own arguments."""
    least_of = {'rounds': 1, 'warmup': 0, 'calls': 1, 'threads': 1, 'limit': 0} | more
    for name, least in least_of.items():
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not value >= least:  # so that NaN is refused too
                parser.error(f'--{name.replace("_", "-")} {value}: at least {least} is needed')


def resolve_device(asked: str | None, backend: str) -> str:
    """The device that was asked for, or the backend's.

    Raises:
        UserError: It is misspelt or not there.
    """
    if asked is None:
        return choose_device(backend)
    find_torch_device(asked)
    return asked


def default_backend() -> str:
    """The fastest backend that can build and run here."""
    if torch.cuda.is_available():
        for name in ('tensorrt', 'tensorrt-rtx'):
            available = get_backend(name).availability()
            if available.can_build and available.can_run and not available.doubt:
                return name
        return 'cudagraph'
    return 'onnxruntime' if get_backend('onnxruntime').availability().can_run else 'pytorch'


def make_console() -> Console:
    """A console that cuts no number: a file or a pipe has no width."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """Show what a run reports while it lasts."""
    columns = (SpinnerColumn(), TextColumn('{task.description}', markup=False), BarColumn(), TimeElapsedColumn())
    # in a file or a pipe it would leave an empty line
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('', total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
