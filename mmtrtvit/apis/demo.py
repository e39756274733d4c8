"""The whole way in one command: generate images, train Mask R-CNN with TRT-ViT on them, evaluate, draw."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from mmtrtvit.apis import test, train, visualize
from mmtrtvit.apis.config import key_value, load_config
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import last_checkpoint
from mmtrtvit.apis.model import class_names
from mmtrtvit.datasets import CLASSES
from mmtrtvit.datasets.writer import DatasetError, Parameters, generate

CONFIG = 'configs/demo/mask_rcnn_trtvit_shapes.py'
METRIC = 'coco/bbox_mAP_50'
WANTED = 0.5
"""Box mAP at IoU 0.5 on held-out images below which the demo calls itself failed."""

Result = TypeVar('Result')


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The demo's few options; without any it is what ``make demo`` runs."""
    parser = argparse.ArgumentParser(prog='demo.py', allow_abbrev=False, description=__doc__)
    parser.add_argument('--config', default=CONFIG, help='config to train (%(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='logs, checkpoint and picture (%(default)s)')
    parser.add_argument('--train-images', type=int, default=600, help='images to generate (%(default)s)')
    parser.add_argument('--val-images', type=int, default=100, help='held-out images (%(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], type=key_value, metavar='KEY=VALUE', help='passed on to every step'
    )
    return parser.parse_args(argv)


class Steps:
    """Numbers the steps, prints the command that does each alone, and keeps its time."""

    def __init__(self, total: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.total = total
        self.seconds: dict[str, float] = {}

    def run(self, title: str, command: Sequence[str], work: Callable[[], Result]) -> Result:
        """Run ``work`` as the next step, which ``command`` does alone."""
        number = len(self.seconds) + 1
        self.console.rule(f'[bold]{number}/{self.total} {title}')
        self.console.print(f'  {shlex.join(command)}\n', style='cyan', markup=False)
        start = time.perf_counter()
        result = work()
        self.seconds[title] = time.perf_counter() - start
        return result


def trained(work_dir: Path) -> Path:
    """The checkpoint that training left.

    Raises:
        UserError: There is none.
    """
    found = last_checkpoint(work_dir)
    if found is None:
        raise UserError(f'{work_dir}: training left no checkpoint')
    return Path(os.path.relpath(found))


def make_images(root: Path, work_dir: Path, args: argparse.Namespace) -> Path:
    """Generate the data set, and where it is made anew move what was trained on the one before out of the way."""
    try:
        made = generate(root, Parameters(train=args.train_images, val=args.val_images), overwrite=True)
    except DatasetError as error:
        raise UserError(str(error)) from error
    if made and last_checkpoint(work_dir) is not None:
        print(f'{root} was made anew: the checkpoints of the training before are now in {set_aside(work_dir)}')
    return root


def set_aside(work_dir: Path) -> Path:
    """Move the checkpoints of a work dir into the first free of ``old1``, ``old2``, ... in it; return that folder."""
    number = 1
    while (aside := work_dir / f'old{number}').exists():
        number += 1
    aside.mkdir()
    for file in (work_dir / 'last_checkpoint', *work_dir.glob('*.pth')):  # in this order: nothing resumes half of it
        file.rename(aside / file.name)
    return aside


def demo(argv: Sequence[str]) -> None:
    """Run the four steps and say where everything is.

    Raises:
        UserError: The detector is worse than :data:`WANTED`, or a step cannot be done.
    """
    args = parse_args(argv)
    work_dir = Path(args.work_dir)
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    config = load_config(args.config, train.parse_args([args.config, *options]).cfg_options)
    if 'data_root' not in config:
        raise UserError(f'--config {args.config}: it has no data_root to generate images into')
    if class_names(config, {}) != CLASSES:
        raise UserError(
            f'--config {args.config}: its classes are not those of the generated images: {", ".join(CLASSES)}'
        )
    root = Path(config.data_root)
    common = ['--work-dir', args.work_dir, *options]

    steps = Steps(4)
    sizes = ['--train', str(args.train_images), '--val', str(args.val_images)]
    images = steps.run(
        'Generate images',
        ['python', '-m', 'mmtrtvit.datasets', str(root), *sizes],
        lambda: make_images(root, work_dir, args),
    )
    line = [args.config, '--resume', *common]
    steps.run('Train', ['python', 'tools/train.py', *line], lambda: train.train(line))
    checkpoint, picture = trained(work_dir), work_dir / 'detections.png'
    evaluation = [args.config, str(checkpoint), *common]
    metrics = steps.run('Evaluate', ['python', 'tools/test.py', *evaluation], lambda: test.evaluate(evaluation))
    drawing = [args.config, str(checkpoint), '--out', str(picture), *common]
    steps.run('Draw', ['python', 'tools/visualize.py', *drawing], lambda: visualize.visualize(drawing))
    report(steps, metrics, {'images': images, 'checkpoint': checkpoint, 'picture': picture, 'logs': work_dir})
    if metrics[METRIC] < WANTED:
        raise UserError(f'{METRIC} is {metrics[METRIC]:.3f}; a detector that works reaches {WANTED}')


def report(steps: Steps, metrics: dict[str, float], places: dict[str, Path]) -> None:
    """Print results, times and places."""
    table = Table(title='mmtrtvit demo', show_header=False)
    for name in (METRIC, 'coco/bbox_mAP', 'coco/segm_mAP_50', 'coco/segm_mAP'):
        if name not in metrics:
            continue  # a detector without masks
        table.add_row(name, f'{metrics[name]:.3f}')
    for title, seconds in steps.seconds.items():
        table.add_row(title, f'{seconds:.0f} s')
    steps.console.print(table)
    for name, place in places.items():
        steps.console.print(f'{name:>10}: {os.path.relpath(place)}', markup=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(demo, argv, going_on='the same command goes on from the last checkpoint')
