"""Whatever interrupts the saving, the last good checkpoint is there, is found and goes on exactly."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.runner
import pytest
import torch

from mmtrtvit.compat import checkpoint_saving
from tests.toy import run, weights


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """The disk takes ``size`` bytes a file: the kernel itself refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> list[str]:
    """Names of the files but for the config that mmengine writes at each start."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != '.py')


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'c.pth'
    mmengine.runner.save_checkpoint({'state_dict': {'w': torch.zeros(10)}}, str(path))
    with no_file_over(2000), pytest.raises(OSError, match=r'c\.pth|too large'):
        mmengine.runner.save_checkpoint({'state_dict': {'w': torch.ones(10_000)}}, str(path))
    assert files(tmp_path) == ['c.pth']
    assert torch.load(path)['state_dict']['w'].tolist() == [0.0] * 10


def test_other_backends_are_left_to_mmengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_saving, 'atomic_write_bytes', lambda *_: pytest.fail('not a local file'))
    mmengine.runner.save_checkpoint({'a': 1}, str(tmp_path / 'c.pth'), backend_args={'backend': 'local'})
    assert torch.load(tmp_path / 'c.pth') == {'a': 1}


HOOK: dict[str, Any] = {'type': 'CheckpointHook', 'by_epoch': True, 'interval': 1, 'max_keep_ckpts': 1}


def test_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``max_keep_ckpts=1``: mmengine alone has removed the only good one by the time the disk turns out to be full."""
    whole, whole_runner = run(tmp_path / 'whole', by_epoch=True)
    cut = tmp_path / 'cut'

    original, saved = checkpoint_saving.atomic_write_bytes, []

    def write(path: str, data: bytes) -> Path:
        saved.append(path)
        with no_file_over(10**9 if len(saved) == 1 else 1000):
            return original(path, data)

    monkeypatch.setattr(checkpoint_saving, 'atomic_write_bytes', write)
    with pytest.raises(OSError, match='too large'):
        run(cut, by_epoch=True, default_hooks={'checkpoint': HOOK})
    monkeypatch.undo()
    assert files(cut) == ['epoch_1.pth', 'last_checkpoint']
    assert (cut / 'last_checkpoint').read_text() == str(cut / 'epoch_1.pth')

    rest, rest_runner = run(cut, by_epoch=True, default_hooks={'checkpoint': HOOK}, resume=True)
    assert rest.losses == {i: whole.losses[i] for i in range(4, 12)}
    assert weights(rest_runner) == weights(whole_runner)
    assert files(cut) == ['epoch_3.pth', 'last_checkpoint']


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.toy import run
import mmtrtvit.fileio
step, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
original = getattr(Path, step)
def die(self, *args, **kwargs):
    global number
    if '.partial-' in self.name:
        number -= 1
        if number == 0:
            if step == 'write_bytes':
                original(self, args[0][: len(args[0]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
setattr(Path, step, die)
hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
run(Path(folder), by_epoch=True, default_hooks=dict(checkpoint=hook))
"""


@pytest.mark.parametrize(
    ('step', 'number', 'last'),
    [
        # each checkpoint is two writes: itself, then the file last_checkpoint
        ('write_bytes', 3, 1),  # half of the second checkpoint is written
        pytest.param('replace', 3, 1, marks=pytest.mark.slow),  # all of it, under its temporary name
        pytest.param('write_bytes', 4, 1, marks=pytest.mark.slow),  # it is in place, last_checkpoint is half written
        pytest.param('replace', 4, 1, marks=pytest.mark.slow),
        pytest.param('write_bytes', 5, 2, marks=pytest.mark.slow),  # the first one is removed by now
    ],
)
def test_kill_9_while_saving(tmp_path: Path, step: str, number: int, last: int) -> None:
    cut = tmp_path / 'cut'
    command = [sys.executable, '-c', KILLED, step, str(number), str(cut)]
    # The last bit of a sum depends on how many threads add: the killed process gets as many as this one.
    env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (cut / 'last_checkpoint').read_text() == str(cut / f'epoch_{last}.pth')
    assert any('.partial-' in name for name in files(cut)), 'the kill came while something was being written'

    whole, _ = run(tmp_path / 'whole', by_epoch=True)
    rest, _ = run(cut, by_epoch=True, default_hooks={'checkpoint': HOOK}, resume=True)
    assert rest.losses == {i: whole.losses[i] for i in range(4 * last, 12)}
    assert [name for name in files(cut) if not name.startswith('epoch_')] == ['last_checkpoint']


class FakeRunner:
    """As much of a runner as the hook's saving of the best checkpoint needs."""

    def __init__(self, folder: Path) -> None:
        from mmengine.logging import MessageHub, MMLogger

        self.work_dir = str(folder)
        self.message_hub = MessageHub(f'fake-{folder.name}-{os.getpid()}')
        self.logger = MMLogger(f'fake-{folder.name}-{os.getpid()}')
        self.epoch, self.iter = 0, 0
        self.full = False

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        if self.full:
            raise OSError(28, 'No space left on device')
        mmengine.runner.save_checkpoint({'epoch': self.epoch}, f'{out_dir}/{filename}')


def best_hook(runner: FakeRunner) -> Any:
    from mmengine.hooks import CheckpointHook

    hook = CheckpointHook(interval=1, save_best='acc', max_keep_ckpts=1)
    hook.before_train(runner)
    return hook


def test_the_best_checkpoint_outlives_a_full_disk(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    hook = best_hook(runner)
    runner.epoch = 1
    hook._save_best_checkpoint(runner, {'acc': 0.5})
    assert 'best_acc_epoch_1.pth' in files(tmp_path)
    runner.epoch, runner.full = 2, True
    with pytest.raises(OSError, match='No space left'):
        hook._save_best_checkpoint(runner, {'acc': 0.6})
    assert 'best_acc_epoch_1.pth' in files(tmp_path)
    runner.full = False
    hook.best_ckpt_path = str(tmp_path / 'best_acc_epoch_1.pth')
    hook._save_best_checkpoint(runner, {'acc': 0.7})
    assert [name for name in files(tmp_path) if name.startswith('best')] == ['best_acc_epoch_2.pth']
    assert torch.load(tmp_path / 'best_acc_epoch_2.pth') == {'epoch': 2}


def test_a_best_checkpoint_written_again_is_not_removed(tmp_path: Path) -> None:
    """A resumed epoch that is the best again saves under the name of the one it replaces."""
    runner = FakeRunner(tmp_path)
    hook = best_hook(runner)
    runner.epoch = 3
    hook._save_best_checkpoint(runner, {'acc': 0.5})
    hook._save_best_checkpoint(runner, {'acc': 0.6})
    assert 'best_acc_epoch_3.pth' in files(tmp_path)
