"""Evaluate a checkpoint of any detector, segmentor or classifier of OpenMMLab."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmtrtvit.apis.config import add_config_arguments, default_work_dir, load_config
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import add_launch_arguments, build_runner, check_checkpoint, leave_together, set_launcher
from mmtrtvit.apis.preflight import check_data


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/test.py``."""
    parser = argparse.ArgumentParser(prog='test.py', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    add_launch_arguments(parser)
    parser.add_argument('--out', help='write all predictions to this .pkl file')
    parser.add_argument('--show-dir', help='write painted predictions to this folder')
    return parser.parse_args(argv)


#: The hook of each library that paints predictions.
_PAINTERS = {'mmdet': 'DetVisualizationHook', 'mmseg': 'SegVisualizationHook', 'mmpretrain': 'VisualizationHook'}


def enable_drawing(cfg: Config, show_dir: str) -> None:
    """Let the visualization hook paint every test image into ``show_dir``.

    mmdet puts that folder into the run's own, ``<work dir>/<time>/<show_dir>``; the others take it as it is.

    Raises:
        UserError: The config has no such hook and its library none that is known.
    """
    scope = str(cfg.get('default_scope'))
    hooks = cfg.setdefault('default_hooks', {})
    if hooks.get('visualization') is None:
        if scope not in _PAINTERS:
            raise UserError(f'--show-dir: the config of {scope} has no default_hooks.visualization to paint with')
        hooks['visualization'] = {'type': _PAINTERS[scope]}
    hook = hooks['visualization']
    if scope == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=show_dir)
    elif scope == 'mmseg':
        hook.update(draw=True, interval=1)
        cfg.visualizer['save_dir'] = show_dir
    else:
        hook.update(draw=True, test_out_dir=show_dir)


def dump_to(runner: Runner, cfg: Config, out: str) -> None:
    """Write predictions to ``out``; detectors in mmdet's form, with masks as RLE."""
    metric: DumpResults
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        metric = DumpDetResults(out_file_path=out)
    else:
        metric = DumpResults(out_file_path=out)
    runner.test_evaluator.metrics.append(metric)


def prepare(args: argparse.Namespace) -> Config:
    """The config with everything the command line says merged in."""
    if args.out and Path(args.out).suffix not in ('.pkl', '.pickle'):
        raise UserError(f'--out {args.out}: the name must end in .pkl or .pickle')
    cfg = load_config(args.config, args.cfg_options)
    set_launcher(cfg, args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show_dir:
        enable_drawing(cfg, args.show_dir)
    return cfg


def evaluate(argv: Sequence[str]) -> dict[str, float]:
    """Evaluate as the command line says; the metrics are logged and returned."""
    args = parse_args(argv)
    cfg = prepare(args)
    check_checkpoint(args.checkpoint)
    check_data(cfg, ('test',))
    runner = build_runner(cfg, weights=(args.checkpoint, 0.5))
    if args.out:
        dump_to(runner, cfg, args.out)
    metrics: dict[str, float] = runner.test()
    leave_together()
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(evaluate, argv)
