"""What training and testing share: launcher, device, and the runner with its checks."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from mmtrtvit.apis.classes import CheckClassesHook
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.weights import CheckWeightsHook
from mmtrtvit.compat.mask_pasting import paste_inside

#: Hooks that demand a training loop before anything runs.
_OF_TRAINING = ('EarlyStoppingHook', 'ProfilerHook', 'NPUProfilerHook')
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# what each launcher tells the processes it starts
_TOLD = {
    'none': (),
    'pytorch': ('RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_HOW = {
    'pytorch': 'torchrun --nproc-per-node N tools/train.py CONFIG --launcher pytorch',
    'slurm': 'srun python tools/train.py CONFIG --launcher slurm',
    'mpi': 'mpirun -np N python tools/train.py CONFIG --launcher mpi',
}


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--launcher`` and the rank that old launchers hand over."""
    parser.add_argument('--work-dir', help='folder of logs, checkpoints and results; default work_dirs/<config name>')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how several processes are started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def set_launcher(cfg: Config, args: argparse.Namespace) -> None:
    """Write the launcher into the config and check that the processes and devices asked for are there.

    Raises:
        UserError: No such launcher at work, or a GPU that this machine does not have.
    """
    cfg.launcher = args.launcher
    missing = [variable for variable in _TOLD[args.launcher] if variable not in os.environ]
    if missing:
        raise UserError(f'--launcher {args.launcher}: {missing[0]} is not set; start it as {_HOW[args.launcher]}')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = str(cfg.get('device', ''))
    backend = str((args.cfg_options or {}).get('env_cfg.dist_cfg.backend', ''))
    if not gpus and (device.startswith('cuda') or backend == 'nccl'):
        asked = f'device={device}' if device.startswith('cuda') else f'env_cfg.dist_cfg.backend={backend}'
        raise UserError(f'{asked}: PyTorch finds no GPU here; leave it out to run on the CPU (see nvidia-smi)')
    if args.launcher == 'slurm':
        _meet_through_slurm(gpus)
    elif args.launcher == 'mpi':
        _meet_through_mpi()
    local_rank = os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher != 'none' and gpus and int(local_rank) >= gpus:
        raise UserError(f'--launcher {args.launcher}: process {local_rank} of this machine has no GPU, it sees {gpus}')


def _meet_through_slurm(gpus: int) -> None:
    """Fill in what mmengine 0.10.7 guesses: it takes even an error of ``scontrol`` for the first machine's name."""
    rank = int(os.environ['SLURM_PROCID'])
    os.environ['LOCAL_RANK'] = os.environ.setdefault('SLURM_LOCALID', str(rank % gpus if gpus else 0))
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_host(os.environ['SLURM_NODELIST'])


def _first_host(nodes: str) -> str:
    try:
        asked = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True, check=False)
    except OSError as error:
        hosts, problem = [], str(error)
    else:
        hosts, problem = asked.stdout.split(), asked.stderr.strip() or f'exit status {asked.returncode}'
    if not hosts:
        raise UserError(
            f'--launcher slurm: `scontrol show hostname {nodes}` does not name the first machine ({problem}); '
            'set MASTER_ADDR to its name'
        )
    return hosts[0]


def _meet_through_mpi() -> None:
    """Fill in what mmengine 0.10.7 leaves out: it wraps a model by ``LOCAL_RANK``, which Open MPI does not set."""
    os.environ['LOCAL_RANK'] = os.environ['OMPI_COMM_WORLD_LOCAL_RANK']
    if 'MASTER_ADDR' in os.environ:
        return
    if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') != os.environ['OMPI_COMM_WORLD_SIZE']:
        raise UserError(
            '--launcher mpi: the processes are on several machines and MASTER_ADDR is not set; '
            'name the first one: mpirun -x MASTER_ADDR=HOST ...'
        )
    os.environ['MASTER_ADDR'] = '127.0.0.1'


def leave_together() -> None:
    """End the exchange between processes; one that exits while others still talk to it makes gloo abort them.

    Whoever calls it has let go of the runner: the wrapped model in it keeps gloo's threads alive, and one that drops a
    tensor when Python is gone already aborts its process (https://github.com/pytorch/pytorch/pull/179291).
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        # The runner and its hooks hold each other. They go before the group does: were theirs the last reference to it,
        # its threads would be joined under the GIL that they may be waiting for.
        gc.collect()
        torch.distributed.destroy_process_group()


def last_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that a training left in its work dir; None where there is none.

    mmengine's ``last_checkpoint`` names it by its absolute path: after the folder was moved or copied, the file of that
    name beside it is meant.
    """
    found = find_latest_checkpoint(str(work_dir))
    if found is None:
        return None
    beside = Path(work_dir) / Path(found).name
    return beside if beside.exists() else Path(found)


def check_checkpoint(name: str) -> None:
    """Say before anything is built that a checkpoint file is not there.

    Raises:
        UserError: No such file; URLs and other schemes are left to the loader.
    """
    path = Path(name).expanduser()
    if '://' in name or path.is_file():
        return
    near_it = sorted(other.name for other in path.parent.glob('*.pth'))[:5]
    hint = f'; {path.parent} has {", ".join(near_it)}' if near_it else ''
    raise UserError(f'checkpoint not found: {name}{hint}')


def build_runner(cfg: Config, weights: tuple[str, float] | None = None) -> Runner:
    """The runner a config asks for, as OpenMMLab's own tools build it, with checks of data and weights.

    Args:
        cfg: The merged config.
        weights: Checkpoint as the user wrote it, and the share of the model that must be in it.
    """
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.build_dataloader = _checked(runner.build_dataloader)
    if isinstance(runner.model, nn.Module):  # FlexibleRunner builds it later
        paste_inside(runner.model)
    runner.register_hook(CheckClassesHook())
    if weights is not None:
        runner.register_hook(CheckWeightsHook(*weights))
    return runner


def forget_training(runner: Runner) -> Runner:
    """Let a runner that only tests forget how it would train; the config that it wrote to the work dir stays whole.

    mmengine builds the training loop, its images included, for whoever asks for the iteration, as mmseg's drawing hook
    does; and what stops or profiles a training refuses to run without one.

    Returns:
        The same runner.
    """
    for name in ('_train_dataloader', '_train_loop', 'optim_wrapper', 'param_schedulers'):
        if hasattr(runner, name):
            setattr(runner, name, None)
    runner._hooks = [hook for hook in runner._hooks if type(hook).__name__ not in _OF_TRAINING]
    return runner


def _checked(build: Any) -> Any:
    """Refuse an empty data set, over which mmengine's infinite sampler would turn for ever."""

    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
        loader = build(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)
        if len(loader.dataset) == 0:
            file = getattr(loader.dataset, 'ann_file', '') or getattr(loader.dataset, 'data_root', '')
            raise UserError(
                f'{file}: the data set {type(loader.dataset).__name__} is empty; is every image filtered out '
                '(filter_cfg, indices) or are classes and folders those of another data set?'
            )
        return loader

    return build_dataloader
