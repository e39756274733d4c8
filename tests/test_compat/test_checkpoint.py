"""What loads under PyTorch's protection, and what a refused or broken file says."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint, load_checkpoint

from mmtrtvit.compat import checkpoint as mend
from mmtrtvit.compat.checkpoint import CheckpointError


class Evil:
    """Makes ``path`` when it is unpickled without protection."""

    def __init__(self, path: Path, through: Callable[..., Any] = os.mkdir) -> None:
        self.path = str(path)
        self.through = through

    def __reduce__(self) -> tuple[Any, ...]:
        return self.through, ((self.path,) if self.through is os.mkdir else (__file__, self.path))


def save(tmp_path: Path, content: Any, name: str = 'c.pth', **options: Any) -> str:
    torch.save(content, tmp_path / name, **options)
    return str(tmp_path / name)


@pytest.fixture
def training_checkpoint() -> dict[str, Any]:
    """What mmengine's runner saves: message hub with histories, metrics as numpy scalars, meta, states."""
    hub = MessageHub('test-checkpoint')
    for step in range(5):
        hub.update_scalar('train/loss', 1.5 / (step + 1))
    hub.update_info('best_score', np.float64(0.25))
    hub.update_info('keep_ckpt_ids', [1, 2])
    return {
        'meta': {
            'epoch': 1,
            'iter': 5,
            'cfg': 'a = 1\n',
            'seed': 0,
            'dataset_meta': {'classes': ('a', 'b'), 'palette': [(1, 2, 3)], 'lut': np.arange(4, dtype=np.uint8)},
            'score': {'mIoU': np.float32(0.5), 'n': np.int64(3), 'ok': np.bool_(True), 'k': np.int32(7)},
        },
        'state_dict': OrderedDict(w=torch.arange(3.0)),
        'message_hub': hub.state_dict(),
        'optimizer': {
            'state': {0: {'step': torch.tensor(5.0), 'exp_avg': torch.ones(3)}},
            'param_groups': [{'lr': 0.1}],
        },
        'param_schedulers': [{'milestones': Counter([1, 2]), 'last_step': 5}],
    }


@pytest.mark.parametrize('zipped', [True, False])
def test_training_checkpoint_loads(tmp_path: Path, training_checkpoint: dict[str, Any], zipped: bool) -> None:
    path = save(tmp_path, training_checkpoint, _use_new_zipfile_serialization=zipped)
    loaded = _load_checkpoint(path, map_location='cpu')
    history = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.data[0].tolist() == [1.5 / (step + 1) for step in range(5)]
    assert history.statistics('mean') == pytest.approx(np.mean(history.data[0]))
    assert loaded['meta']['score'] == training_checkpoint['meta']['score']
    assert loaded['meta']['dataset_meta']['lut'].tolist() == [0, 1, 2, 3]
    assert loaded['param_schedulers'][0]['milestones'] == Counter([1, 2])


def test_nothing_on_the_list_is_needless(training_checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """Each entry taken away alone makes this checkpoint fail, or is the old numpy's name of one that does."""
    path = save(tmp_path, training_checkpoint)
    for entry in mend.SAFE_GLOBALS:
        name = entry[1] if isinstance(entry, tuple) else entry.__name__
        if name.startswith('numpy.core.'):
            continue
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals([other for other in mend.SAFE_GLOBALS if other is not entry])
            with pytest.raises(pickle.UnpicklingError):
                torch.load(path)
        finally:
            torch.serialization.add_safe_globals(list(mend.SAFE_GLOBALS))


def test_pickles_of_numpy_1_load(tmp_path: Path, training_checkpoint: dict[str, Any]) -> None:
    """The released checkpoints of OpenMMLab name ``numpy.core``."""
    path = save(tmp_path, training_checkpoint)
    old = tmp_path / 'old.pth'
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, 'w', zipfile.ZIP_STORED) as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith('data.pkl'):
                assert b'numpy._core.multiarray' in data
                data = data.replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n')
            target.writestr(entry, data)
    loaded = _load_checkpoint(str(old))
    assert loaded['meta']['score']['mIoU'] == np.float32(0.5)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(('through', 'name'), [(os.mkdir, 'posix.mkdir'), (shutil.copyfile, 'shutil.copyfile')])
def test_foreign_function_is_refused_and_not_run(
    tmp_path: Path, through: Callable[..., Any], name: str, zipped: bool
) -> None:
    witness = tmp_path / 'witness'
    path = save(tmp_path, {'state_dict': {}, 'x': Evil(witness, through)}, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert witness.exists(), 'the file does harm where it can'
    (witness.rmdir if witness.is_dir() else witness.unlink)()
    with pytest.raises(CheckpointError) as error:
        _load_checkpoint(path)
    assert not witness.exists()
    message = str(error.value)
    assert message.startswith(f'{path}: refused, its pickle asks for {name}, which')
    assert 'weights_only' not in message, 'the way out does not turn the protection off'
    assert "torch.save({'state_dict': model.state_dict()}" in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (HistoryBuffer, '__globals__'), (dict, 'get'), (torch, 'load')]
)
def test_getattr_reaches_nothing_else(owner: Any, name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=name):
        mend._history_statistic(owner, name)


def test_getattr_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    class Reach:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (HistoryBuffer, 'register_statistics')

    path = save(tmp_path, {'x': Reach()})
    with pytest.raises(CheckpointError, match=r'refused.*register_statistics'):
        _load_checkpoint(path)


def test_protection_is_on() -> None:
    buffer = io.BytesIO()
    torch.save(Path('x'), buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(buffer)


def test_download_is_protected_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's hub, which mmengine calls for a URL, is not protected by itself."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    witness = tmp_path / 'witness'
    torch.save({'state_dict': {}, 'x': Evil(witness)}, folder / 'evil.pth')
    torch.save({'state_dict': {'w': torch.ones(2)}}, folder / 'good.pth')
    with pytest.raises(CheckpointError, match='refused'):
        _load_checkpoint('https://example.invalid/evil.pth')
    assert not witness.exists()
    assert _load_checkpoint('https://example.invalid/good.pth')['state_dict']['w'].sum() == 2


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'http://127.0.0.1:9/weights.pth'
    with pytest.raises(CheckpointError, match=rf'{url}: cannot be downloaded \(.+\); download it where'):
        _load_checkpoint(url)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        _load_checkpoint(str(tmp_path / 'nowhere.pth'))


@pytest.mark.parametrize(
    'content',
    [b'', b'<html>404</html>', b'version https://git-lfs.github.com/spec/v1\n', b'PK\x03\x04', b'\x80\x02}q\x00'],
)
def test_foreign_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'foreign.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'foreign\.pth \({len(content)} bytes\): not a checkpoint'):
        _load_checkpoint(str(path))


def test_checkpoint_that_is_no_dict(tmp_path: Path) -> None:
    path = save(tmp_path, torch.ones(3))
    with pytest.raises(CheckpointError, match='holds a Tensor, not a checkpoint'):
        load_checkpoint(torch.nn.Linear(1, 1), path)


@pytest.fixture(scope='module')
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer = io.BytesIO()
    torch.save({'state_dict': {'w': torch.arange(100.0)}, 'h': history}, buffer)
    return buffer.getvalue()


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_truncated_or_damaged_never_crashes(
    whole_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any cut is refused; any flipped byte is refused or harmless. Nothing but :class:`CheckpointError` comes out."""
    path = tmp_path_factory.mktemp('damaged') / 'c.pth'
    cut = data.draw(st.booleans())
    where = data.draw(st.integers(0, len(whole_file) - 1))
    if cut:
        path.write_bytes(whole_file[:where])
        with pytest.raises(CheckpointError):
            _load_checkpoint(str(path))
        return
    damaged = bytearray(whole_file)
    damaged[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with contextlib.suppress(CheckpointError):
        assert isinstance(_load_checkpoint(str(path)), dict)


def test_install_is_idempotent() -> None:
    before = CheckpointLoader.__dict__['load_checkpoint']
    mend.install()
    assert CheckpointLoader.__dict__['load_checkpoint'] is before
