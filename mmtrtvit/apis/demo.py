"""The whole way in one command: generate images, train Mask R-CNN with TRT-ViT on them, evaluate, draw."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from mmtrtvit.apis import test, train
from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import build_runner
from mmtrtvit.datasets.writer import DatasetError, Parameters, generate

CONFIG = 'configs/demo/mask_rcnn_trtvit_shapes.py'
METRIC = 'coco/bbox_mAP_50'
WANTED = 0.5
"""Box mAP at IoU 0.5 on held-out images below which the demo calls itself failed."""

Result = TypeVar('Result')


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The demo's few options; without any it is what ``make demo`` runs."""
    parser = argparse.ArgumentParser(prog='demo.py', description=__doc__)
    parser.add_argument('--config', default=CONFIG, help='config to train (%(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='logs, checkpoint and picture (%(default)s)')
    parser.add_argument('--train-images', type=int, default=500, help='images to generate (%(default)s)')
    parser.add_argument('--val-images', type=int, default=100, help='held-out images (%(default)s)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='passed on to train and test')
    return parser.parse_args(argv)


class Steps:
    """Numbers the steps, prints the command that does each alone, and keeps its time."""

    def __init__(self, total: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.total = total
        self.seconds: dict[str, float] = {}

    def run(self, title: str, command: str, work: Callable[[], Result]) -> Result:
        """Run ``work`` as the next step."""
        number = len(self.seconds) + 1
        self.console.rule(f'[bold]{number}/{self.total} {title}')
        self.console.print(f'  {command}\n', style='cyan', markup=False)
        start = time.perf_counter()
        result = work()
        self.seconds[title] = time.perf_counter() - start
        return result


def last_checkpoint(work_dir: Path) -> Path:
    """The checkpoint that training left.

    Raises:
        UserError: There is none.
    """
    from mmengine.runner import find_latest_checkpoint

    found = find_latest_checkpoint(str(work_dir))
    if found is None:
        raise UserError(f'{work_dir}: training left no checkpoint')
    return Path(found)


def make_images(config: Config, args: argparse.Namespace) -> Path:
    """Generate the data set where the config reads it."""
    root = Path(config.data_root)
    try:
        generate(root, Parameters(train=args.train_images, val=args.val_images), overwrite=True)
    except DatasetError as error:
        raise UserError(str(error)) from error
    return root


def draw(config: Config, checkpoint: Path, picture: Path) -> None:
    """Ground truth beside detections on held-out images."""
    from mmtrtvit.apis.visualize import draw_results

    config.load_from = str(checkpoint)
    runner: Runner = build_runner(config)
    runner.load_or_resume()
    draw_results(runner, picture)


def demo(argv: Sequence[str]) -> None:
    """Run the four steps and say where everything is.

    Raises:
        UserError: The detector is worse than :data:`WANTED`, or a step cannot be done.
    """
    args = parse_args(argv)
    work_dir = Path(args.work_dir)
    config = load_config(args.config)
    if args.cfg_options:
        config = train.prepare(train.parse_args([args.config, '--cfg-options', *args.cfg_options]))
    config.work_dir = args.work_dir
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []

    steps = Steps(4)
    images = steps.run(
        'Generate images',
        f'python -m mmtrtvit.datasets {config.data_root} --train {args.train_images} --val {args.val_images}',
        lambda: make_images(config, args),
    )
    train_line = [args.config, '--work-dir', args.work_dir, '--resume']
    steps.run('Train', f'python tools/train.py {" ".join(train_line)}', lambda: train.train([*train_line, *options]))
    checkpoint = last_checkpoint(work_dir)
    test_line = [args.config, str(checkpoint), '--work-dir', args.work_dir]
    metrics = steps.run(
        'Evaluate', f'python tools/test.py {" ".join(test_line)}', lambda: test.evaluate([*test_line, *options])
    )
    picture = work_dir / 'detections.png'
    steps.run('Draw', 'mmtrtvit.apis.visualize.draw_results(...)', lambda: draw(config, checkpoint, picture))
    report(steps, metrics, {'images': images, 'checkpoint': checkpoint, 'picture': picture, 'logs': work_dir})
    if metrics[METRIC] < WANTED:
        raise UserError(f'{METRIC} is {metrics[METRIC]:.3f}; a detector that works reaches {WANTED}')


def report(steps: Steps, metrics: dict[str, float], places: dict[str, Path]) -> None:
    """Print results, times and places."""
    table = Table(title='mmtrtvit demo', show_header=False)
    for name in (METRIC, 'coco/bbox_mAP', 'coco/segm_mAP_50', 'coco/segm_mAP'):
        table.add_row(name, f'{metrics[name]:.3f}')
    for title, seconds in steps.seconds.items():
        table.add_row(title, f'{seconds:.0f} s')
    steps.console.print(table)
    for name, place in places.items():
        steps.console.print(f'{name:>10}: {os.path.relpath(place)}', markup=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(demo, argv)
