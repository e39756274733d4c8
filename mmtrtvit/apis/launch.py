"""What training and testing share: launcher, device, scope and the runner."""

from __future__ import annotations

import argparse
import os

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--launcher`` and the rank that old launchers hand over."""
    parser.add_argument('--work-dir', help='folder of logs, checkpoints and results; default work_dirs/<config name>')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how several processes are started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def set_launcher(cfg: Config, args: argparse.Namespace) -> None:
    """Write launcher and communication backend into the config: nccl on GPUs, gloo on CPU."""
    import torch

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.launcher != 'none' and not torch.cuda.is_available():
        cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})['backend'] = 'gloo'


def build_runner(cfg: Config) -> Runner:
    """The runner a config asks for, as OpenMMLab's own tools build it."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
