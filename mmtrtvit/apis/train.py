"""Train any detector, segmentor or classifier of OpenMMLab from its config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from mmtrtvit.apis.config import add_config_arguments, check_has_loop, check_has_model, default_work_dir, load_config
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import (
    add_launch_arguments,
    build_runner,
    check_checkpoint,
    last_checkpoint,
    leave_together,
    set_launcher,
)
from mmtrtvit.apis.preflight import check_data


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/train.py``, the one every OpenMMLab user knows."""
    parser = argparse.ArgumentParser(prog='train.py', allow_abbrev=False, description=__doc__)
    add_config_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the real batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from the given checkpoint, or without a value from the last one in the work dir',
    )
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Config:
    """The config with everything the command line says merged in."""
    cfg = load_config(args.config, args.cfg_options)
    check_has_model(cfg)
    check_has_loop(cfg, 'train')
    check_has_loop(cfg, 'val')
    set_launcher(cfg, args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    cfg.setdefault('custom_hooks', [])
    if not isinstance(cfg.custom_hooks, list) or not all(isinstance(hook, dict) for hook in cfg.custom_hooks):
        raise UserError(f'custom_hooks must be a list of dict(type=...), not {cfg.custom_hooks!r}')
    if not any(hook.get('type') == 'ExactResumeHook' for hook in cfg.custom_hooks):
        cfg.custom_hooks.append({'type': 'ExactResumeHook'})
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp: mixed precision of mmengine needs a GPU and PyTorch finds none; leave --amp out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size to scale from')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    return cfg


def train(argv: Sequence[str]) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    cfg = prepare(args)
    weights = _start(cfg)
    check_data(cfg, ('train', 'val'))
    build_runner(cfg, weights).train()
    leave_together()


def _start(cfg: Config) -> tuple[str, float] | None:
    """The checkpoint the training begins with and the share of the model it must have.

    A resumed training is that of the same model; fine-tuning may bring its own heads, but not a model of which
    nothing fits.
    """
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from)
        return cfg.load_from, 1.0 if cfg.get('resume') else 0.0
    last = last_checkpoint(cfg.work_dir) if cfg.get('resume') else None
    if last is None:
        return None
    if not last.exists():
        raise UserError(
            f'{Path(cfg.work_dir) / "last_checkpoint"} names {last}, which is not there; '
            'give the checkpoint to go on from: --resume PATH'
        )
    cfg.load_from = str(last)  # mmengine would take the path of before a move
    return str(last), 1.0


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(train, argv, going_on='--resume goes on from the last checkpoint')
