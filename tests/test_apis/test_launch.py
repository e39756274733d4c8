"""Launchers: what they must tell the processes, and two processes under faked schedulers."""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.launch import set_launcher
from tests.tiny import make_detector

TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
_OURS = re.compile(r'(SLURM|OMPI|PMI|PMIX)_|(MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK|LOCAL_RANK|LOCAL_WORLD_SIZE)$')

SLURM = {'SLURM_PROCID': '3', 'SLURM_NTASKS': '4', 'SLURM_NODELIST': 'n[1-2]', 'SLURM_LOCALID': '1'}
MPI = {
    'OMPI_COMM_WORLD_RANK': '3',
    'OMPI_COMM_WORLD_SIZE': '4',
    'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '4',
}


def bare_environment() -> dict[str, str]:
    """The environment without what a scheduler under which the tests themselves may run has put there."""
    return {name: value for name, value in os.environ.items() if not _OURS.match(name)}


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ, bare_environment(), clear=True):
        yield


def fake_scontrol(folder: Path, script: str = 'printf "n1\\nn2\\n"') -> Path:
    """A folder with a ``scontrol`` that knows only how Slurm's launcher asks it; to be put on PATH."""
    folder.mkdir()
    program = folder / 'scontrol'
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "show hostname" ] || exit 9\n{script}\n')
    program.chmod(0o755)
    return folder


def launch(launcher: str, gpus: int = 0, **cfg_options: str) -> Config:
    cfg = Config()
    args = argparse.Namespace(launcher=launcher, local_rank=0, cfg_options=cfg_options)
    with (
        mock.patch.object(torch.cuda, 'is_available', return_value=gpus > 0),
        mock.patch.object(torch.cuda, 'device_count', return_value=gpus),
    ):
        set_launcher(cfg, args)
    return cfg


@pytest.mark.parametrize(
    ('launcher', 'told', 'start'),
    [
        ('pytorch', {'RANK': '0', 'WORLD_SIZE': '1'}, 'torchrun --nproc-per-node N'),
        ('slurm', {name: SLURM[name] for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST')}, 'srun python'),
        ('mpi', {name: MPI[name] for name in MPI if 'LOCAL_SIZE' not in name}, 'mpirun -np N'),
    ],
)
def test_a_launcher_that_is_not_at_work(launcher: str, told: dict[str, str], start: str) -> None:
    for missing in told:
        os.environ.update(told)
        del os.environ[missing]
        with pytest.raises(UserError, match=f'^--launcher {launcher}: {missing} is not set; start it as {start}'):
            launch(launcher)


def test_one_process_needs_none() -> None:
    assert launch('none').launcher == 'none'
    assert os.environ['LOCAL_RANK'] == '0'


def test_slurm_asks_for_the_first_machine(tmp_path: Path) -> None:
    os.environ.update(SLURM, PATH=f'{fake_scontrol(tmp_path / "bin")}:{os.environ["PATH"]}')
    assert launch('slurm').launcher == 'slurm'
    assert (os.environ['MASTER_ADDR'], os.environ['LOCAL_RANK']) == ('n1', '1')


@pytest.mark.parametrize(('gpus', 'expected'), [(0, '0'), (2, '1')])
def test_slurm_without_a_local_rank(gpus: int, expected: str) -> None:
    """On a machine without GPUs mmengine divides by their number."""
    os.environ.update(SLURM, MASTER_ADDR='head')
    del os.environ['SLURM_LOCALID']
    launch('slurm', gpus)
    assert os.environ['SLURM_LOCALID'] == os.environ['LOCAL_RANK'] == expected
    assert os.environ['MASTER_ADDR'] == 'head', 'the one that was set, and scontrol is not needed'


@pytest.mark.parametrize(
    ('script', 'problem'),
    [
        (None, r'No such file or directory: .scontrol.'),
        ('echo "Invalid hostlist: n[1-2" >&2; exit 1', r'Invalid hostlist: n\[1-2'),
        ('exit 3', 'exit status 3'),
    ],
)
def test_slurm_that_names_no_machine(script: str | None, problem: str, tmp_path: Path) -> None:
    """mmengine would go looking for a machine of the error's name until it times out."""
    os.environ.update(SLURM, PATH=str(tmp_path if script is None else fake_scontrol(tmp_path / 'bin', script)))
    with pytest.raises(UserError, match=rf'show hostname n\[1-2\]` does not name .*{problem}.*; set MASTER_ADDR'):
        launch('slurm')


def test_mpi_on_one_machine() -> None:
    os.environ.update(MPI)
    launch('mpi')
    assert (os.environ['MASTER_ADDR'], os.environ['LOCAL_RANK']) == ('127.0.0.1', '1')


def test_mpi_on_several_machines() -> None:
    os.environ.update(MPI, OMPI_COMM_WORLD_LOCAL_SIZE='2')
    with pytest.raises(UserError, match=r'several machines and MASTER_ADDR is not set; .* -x MASTER_ADDR=HOST'):
        launch('mpi')
    os.environ['MASTER_ADDR'] = 'head'
    launch('mpi')
    assert os.environ['MASTER_ADDR'] == 'head'


@pytest.mark.parametrize(
    ('launcher', 'told'),
    [
        ('pytorch', {'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_RANK': '1'}),
        ('slurm', {**SLURM, 'MASTER_ADDR': 'head'}),
        ('mpi', MPI),
    ],
)
def test_more_processes_than_gpus(launcher: str, told: dict[str, str]) -> None:
    os.environ.update(told)
    launch(launcher, gpus=2)
    with pytest.raises(UserError, match=f'--launcher {launcher}: process 1 of this machine has no GPU, it sees 1'):
        launch(launcher, gpus=1)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def train_in_two(folder: Path, launcher: str) -> list[str]:
    """Train the tiny detector in two processes on the CPU; what the first of them printed, a line each."""
    config = make_detector(folder, images=8)
    shared = {**os.environ, 'MASTER_PORT': free_port(), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    if launcher == 'slurm':
        shared['PATH'] = f'{fake_scontrol(folder / "bin", "echo localhost")}:{shared["PATH"]}'
    words = [sys.executable, TRAIN, config, '--launcher', launcher, '--work-dir', 'out', '--cfg-options']
    words += ['randomness.seed=0', 'model.test_cfg.score_thr=0.0']
    processes = []
    for rank in ('0', '1'):
        told = {
            'pytorch': {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1'},
            'slurm': {**SLURM, 'SLURM_PROCID': rank, 'SLURM_LOCALID': rank, 'SLURM_NTASKS': '2'},
            'mpi': dict.fromkeys(MPI, '2') | {name: rank for name in MPI if name.endswith('RANK')},
        }
        output = (folder / f'printed_{rank}.txt').open('w')
        with output:
            processes.append(
                subprocess.Popen(
                    [str(word) for word in words], cwd=folder, env={**shared, **told[launcher]},
                    stdout=output, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        statuses = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    printed = [(folder / f'printed_{rank}.txt').read_text() for rank in (0, 1)]
    assert statuses == [0, 0], '\n'.join(text[-2000:] for text in printed)
    assert 'Epoch(train)' not in printed[1], 'the first process speaks for both'
    assert (folder / 'out' / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    return printed[0].splitlines()


def figures(lines: list[str]) -> list[str]:
    """Losses and the last precision; not the times beside them."""
    return [
        found.group()
        for line in lines
        if (found := re.search(r' loss: [\d.]+.*|coco/bbox_mAP: \S+', line)) and 'Epoch(' in line
    ]


@pytest.fixture(scope='module')
def by_torchrun(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What PyTorch's own launcher finds, by the variables that it sets."""
    with mock.patch.dict(os.environ, bare_environment(), clear=True):
        return figures(train_in_two(tmp_path_factory.mktemp('torchrun'), 'pytorch'))


@pytest.mark.slow
def test_no_thread_outlives_the_exchange(tmp_path: Path) -> None:
    """One that drops a tensor while Python ends aborts a process whose work is done: seen once in many trainings."""
    config = make_detector(tmp_path, images=8)
    script = f"""
from glob import glob
from pathlib import Path

from mmtrtvit.apis.test import evaluate
from mmtrtvit.apis.train import train

def threads():
    return sorted(name for file in glob('/proc/self/task/*/comm') if 'gloo' in (name := Path(file).read_text()))

common = ['--launcher', 'pytorch', '--work-dir', 'out']
train([{str(config)!r}, *common])
assert not threads(), f'after training: {{threads()}}'
evaluate([{str(config)!r}, 'out/epoch_2.pth', *common])
assert not threads(), f'after evaluation: {{threads()}}'
"""
    told = {'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, env={**os.environ, **told, 'CUDA_VISIBLE_DEVICES': ''}, check=True
    )


@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_two_processes_under_a_scheduler(launcher: str, by_torchrun: list[str], tmp_path: Path) -> None:
    """The schedulers are faked by what they set, the training is real: its losses are those under torchrun."""
    found = figures(train_in_two(tmp_path, launcher))
    assert len(found) == 5, 'two epochs of two iterations, one evaluation'
    assert found == by_torchrun
