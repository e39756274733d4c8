"""Turn any supported detector, segmentor or classifier into an engine, and check it against the library's own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmtrtvit.apis.config import add_config_arguments, load_config
from mmtrtvit.apis.errors import UserError, near, run_tool

if TYPE_CHECKING:
    from mmtrtvit.deploy.pipeline import Deployment

#: Options of ``--cfg-options`` that begin like this change the deploy config, all others the model config.
_DEPLOY_SECTIONS = ('codebase_config', 'onnx_config', 'backend_config', 'calib_config')
LISTED = 10
"""Unmatched detections that are printed; ``deploy.json`` has all."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/deploy.py``, in the order that MMDeploy's users type."""
    parser = argparse.ArgumentParser(prog='deploy.py', allow_abbrev=False, description=__doc__)
    parser.add_argument('deploy_cfg', help='deploy config: a path, or a name below configs/deploy')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help="checkpoint file or URL; 'none' for random weights")
    parser.add_argument('img', help='image that both sides are run on')
    parser.add_argument('--test-img', nargs='+', metavar='IMG', help='run both sides on these images instead of IMG')
    parser.add_argument('--work-dir', help='folder for the results; default work_dirs/MODEL_CFG/DEPLOY_CFG')
    parser.add_argument('--device', default='cpu', help='where the engine runs: cpu (default) or cuda:0')
    parser.add_argument(
        '--log-level', default='INFO', choices=['DEBUG', 'INFO', 'WARNING', 'ERROR'], help='default INFO'
    )
    parser.add_argument('--show', action='store_true', help='open the picture in a window when all is done')
    parser.add_argument('--dump-info', action='store_true', help='also write detail.json: both configs in full')
    return parser.parse_args(argv)


def deploy(argv: Sequence[str]) -> Deployment:
    """Deploy as the command line says.

    Raises:
        SystemExit: With 1 where an output is outside the tolerance.
    """
    args = parse_args(argv)
    _log(args.log_level)
    console = Console(quiet=args.log_level in ('WARNING', 'ERROR'), highlight=False)
    try:
        from mmtrtvit.deploy import pipeline
        from mmtrtvit.deploy.backends import BackendError
        from mmtrtvit.deploy.config import in_config_words, load_deploy_config
    except ImportError as error:
        raise UserError(f"{error}: pip install 'mmtrtvit[deploy]'") from error
    for_deploy, for_model = split_options(args.cfg_options)
    check_device_name(args.device)
    deploy_cfg = load_deploy_config(args.deploy_cfg, for_deploy)
    model_cfg = load_config(args.config, for_model)
    if args.show and deploy_cfg.part != 'end2end':
        raise UserError(
            f'--show: codebase_config.part={deploy_cfg.part!r} gives feature maps, of which no picture is made'
        )
    if args.show:
        check_screen()
    images = args.test_img or [args.img]
    for image in images:
        if not Path(image).is_file():
            raise UserError(f'image not found: {image}')
    work_dir = Path(args.work_dir or Path('work_dirs') / Path(args.config).stem / Path(args.deploy_cfg).stem)
    try:
        made = pipeline.deploy(
            deploy_cfg,
            model_cfg,
            args.checkpoint,
            images,
            work_dir,
            device=args.device,
            command=shlex.join(['tools/deploy.py', *argv]),
            step=_Steps(console),
        )
    except BackendError as error:
        raise UserError(in_config_words(error)) from error
    if args.dump_info:
        _dump(work_dir, deploy_cfg, model_cfg)
    report(console, made)
    if args.show:
        show(made.pictures[0])
    if not made.passed:
        hint = ' (those of random weights hang on the last bit: fp32 and a small canvas agree best)'
        said = f'the outputs are outside the tolerance, see the table{hint if made.random_weights else ""}'
        print(f'error: {work_dir}: {said}', file=sys.stderr)
        raise SystemExit(1)
    return made


def _log(level: str) -> None:
    """Let what mmtrtvit logs from that level on through to stderr; without a handler Python drops all but warnings."""
    logger = logging.getLogger('mmtrtvit')
    logger.setLevel(level)
    if not logger.handlers:
        logger.addHandler(RichHandler(console=Console(stderr=True), show_time=False, show_path=False, markup=False))


def split_options(options: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """``--cfg-options`` of the deploy config and of the model config.

    Raises:
        UserError: A section is a misspelt one of the deploy config, which the model config would swallow; names the
            option and the section that is near.
    """
    options = options or {}
    ours = {key: value for key, value in options.items() if key.split('.')[0] in _DEPLOY_SECTIONS}
    for key in options:
        section = key.split('.')[0]
        hint = '' if section in _DEPLOY_SECTIONS else near(section, _DEPLOY_SECTIONS, 0.8)
        if hint:
            raise UserError(f'--cfg-options {key}: a deploy config has no {section}{hint}')
    return ours, {key: value for key, value in options.items() if key not in ours}


def check_device_name(name: str) -> None:
    """Refuse a misspelt device before minutes of export.

    Raises:
        UserError: It is no name of a device; whether it is there, the backend says.
    """
    import torch

    try:
        torch.device(name)
    except RuntimeError as error:
        raise UserError(f'--device {name}: {str(error).splitlines()[0]}') from error


class _Steps:
    """One line a step, with a bar where the work tells how far it is."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def __call__(self, title: str) -> Iterator[Callable[[str, int, int], None]]:
        begin = time.perf_counter()
        if not self.console.is_terminal:
            yield lambda phase, done, of: None
            self.console.print(f'{title}: {time.perf_counter() - begin:.1f} s')
            return
        columns = (SpinnerColumn(), TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(title, total=None)

            def advance(phase: str, done: int, of: int) -> None:
                bar.update(task, description=f'{title}: {phase}', completed=done, total=of or None)

            yield advance
        self.console.print(f'{title}: {time.perf_counter() - begin:.1f} s')


def report(console: Console, made: Deployment) -> None:
    """Print the verdict and where everything is."""
    ran, _, reason = made.ran.partition(' (')
    if reason:
        console.print(f'note: {reason.rstrip(")")}: {ran} ran the graph that it was built of', style='yellow')
    for change in made.changed:
        console.print(f'note: {change}', style='yellow', markup=False)
    unproved = False
    for file, verdict in made.parity.items():
        table = Table(
            'output', 'found', 'allowed', 'verdict', 'what', title=f'{Path(file).name}: PyTorch against {ran}'
        )
        for row in verdict.rows:
            sign = '>=' if row.note.startswith('share') else '<='
            judged = 'passed' if row.passed else '[red]failed[/red]'
            if row.output == 'exact' and row.largest < 1:
                judged = '[yellow]not proved[/yellow]'
                unproved = True
            table.add_row(row.output, f'{row.largest:.6g}', f'{sign} {row.allowed:g}', judged, row.note)
        console.print(table)
    for file, verdict in made.parity.items():
        for line in verdict.unmatched[:LISTED]:
            console.print(f'  {Path(file).name}: {line}', markup=False)
        if len(verdict.unmatched) > LISTED:
            console.print(f'  ... and {len(verdict.unmatched) - LISTED} more in deploy.json')
        if verdict.rows[0].output == 'detections' and not verdict.detections:
            said = f'  {Path(file).name}: neither side has a detection that counts: nothing was compared'
            console.print(said, style='yellow', markup=False)
    if unproved:
        console.print(
            'warning: NMS did not prove itself complete on every image: raise rounds in backend_config.operators.nms '
            "or set its form to 'loop', or raise pre_top_k where fewer than max_dets were kept",
            style='yellow',
        )
    built = made.build
    share = f'{built.precision_share:.0%} of convolutions and matrix products in {built.precision_asked}'
    console.print(
        f'{built.backend} {built.version}: {built.layers} layers, {share} (read from the {built.precision_source})'
    )
    console.print(f'graph: {made.export.nodes} nodes, {made.export.nodes_exported} before optimisation')
    if built.trtexec:
        console.print(f'the same with trtexec: {built.trtexec}', markup=False, soft_wrap=True)
    for warning in built.warnings:
        console.print(f'warning: {warning}', markup=False)
    if made.random_weights:
        console.print('random weights: the outputs mean nothing, only their agreement does', style='yellow')
    for path in dict.fromkeys([made.onnx, made.engine, *made.pictures, made.work_dir / 'deploy.json']):
        console.print(f'  {path}', markup=False, soft_wrap=True)


def check_screen() -> None:
    """Refuse ``--show`` where there is no screen: OpenCV's windows end the process there, after all the work.

    Raises:
        UserError: Neither DISPLAY nor WAYLAND_DISPLAY is set on a system that needs one.
    """
    if sys.platform.startswith('linux') and not any(os.environ.get(name) for name in ('DISPLAY', 'WAYLAND_DISPLAY')):
        raise UserError('--show: there is no screen here (DISPLAY is not set): leave it out, the picture is a file')


def show(picture: Path) -> None:
    """Open the picture in a window until a key is pressed.

    Raises:
        UserError: There is no screen, or OpenCV was built without windows.
    """
    import cv2

    try:
        cv2.imshow(picture.name, cv2.imread(str(picture)))
        cv2.waitKey(0)
    except cv2.error as error:
        raise UserError(f'--show: no window can be opened here; the picture is {picture}') from error


def _dump(work_dir: Path, deploy_cfg: Any, model_cfg: Any) -> None:
    from dataclasses import asdict

    from mmtrtvit.fileio import atomic_write_json

    atomic_write_json(
        work_dir / 'detail.json', {'deploy_config': asdict(deploy_cfg), 'model_config': model_cfg.pretty_text}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(deploy, argv)
