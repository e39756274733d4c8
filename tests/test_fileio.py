"""Written beside and renamed: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mmtrtvit import fileio
from mmtrtvit.fileio import (
    atomic_dir,
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    make_folder,
)

FILEIO = Path(fileio.__file__)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    target = tmp_path / 'new folder' / 'a.bin'
    assert atomic_write_bytes(target, b'one') == target
    assert target.read_bytes() == b'one'
    atomic_write_bytes(target, b'two')
    assert target.read_bytes() == b'two'
    assert names(target.parent) == ['a.bin']


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    atomic_write_text(tmp_path / 'a.txt', 'mü\r\nline\n')
    assert (tmp_path / 'a.txt').read_bytes() == b'm\xc3\xbc\r\nline\n'


def test_json(tmp_path):
    atomic_write_json(tmp_path / 'a.json', {'k': [1, 2.5, 'ü', None]})
    assert json.loads((tmp_path / 'a.json').read_text(encoding='utf-8')) == {'k': [1, 2.5, 'ü', None]}
    atomic_write_json(tmp_path / 'a.json', {'k': [1, 2]}, indent=None)
    assert (tmp_path / 'a.json').read_text() == '{"k":[1,2]}\n'
    with pytest.raises(ValueError, match=r'a\.json: .*write null instead'):
        atomic_write_json(tmp_path / 'a.json', {'k': float('nan')})
    assert (tmp_path / 'a.json').read_text() == '{"k":[1,2]}\n'
    assert names(tmp_path) == ['a.json']


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'
    assert make_folder(tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'file').write_text('x')
    for name in ('file', 'file/b'):
        with pytest.raises(OSError, match=f'cannot write .*{name}: .*a part of that path is a file.*choose another'):
            make_folder(tmp_path / name)


def test_exception_leaves_the_old_file(tmp_path):
    target = tmp_path / 'a.json'
    target.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as partial:  # noqa: PT012  both belong to the block
        partial.write_text('half')
        raise KeyboardInterrupt
    assert target.read_text() == 'old'
    assert names(tmp_path) == ['a.json']


def test_partial_has_the_suffix_and_is_hidden(tmp_path):
    with atomic_path(tmp_path / 'model.onnx') as partial:
        assert partial.suffix == '.onnx'
        assert partial.name.startswith('.')
        assert partial.parent == tmp_path
        assert not (tmp_path / 'model.onnx').exists()
        partial.write_text('x')
    assert names(tmp_path) == ['model.onnx']


def test_errors_of_the_block_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError, match='elsewhere') as caught, atomic_path(tmp_path / 'a'):
        Path('/nonexistent/elsewhere').read_text()
    assert 'half-written' not in str(caught.value)
    assert names(tmp_path) == []


def test_permissions(tmp_path):
    old_umask = os.umask(0o027)
    try:
        target = atomic_write_text(tmp_path / 'a', 'x')
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    atomic_write_text(target, 'y')
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_symlink_is_followed(tmp_path):
    (tmp_path / 'real').write_text('old')
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    atomic_write_text(tmp_path / 'link', 'new')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'real').read_text() == 'new'


def test_names_of_every_length_and_kind(tmp_path):
    for name in ('n' * 250 + '.json', 'ü' * 120, 'a b[*].json', 'x.' + 'y' * 200):
        atomic_write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize(
    ('number', 'text'),
    [
        (errno.ENOSPC, 'disk is full: free some space'),
        (errno.EDQUOT, 'quota'),
    ],
)
def test_full_disk(tmp_path, monkeypatch, number, text):
    def full(self, data):
        raise OSError(number, os.strerror(number))

    target = tmp_path / 'a.bin'
    target.write_bytes(b'old')
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', full)
        with pytest.raises(OSError, match=text) as caught:
            atomic_write_bytes(target, b'new')
    assert caught.value.errno == number
    assert str(target) in str(caught.value)
    assert target.read_bytes() == b'old'
    assert names(tmp_path) == ['a.bin']


def test_real_full_disk():
    """/dev/full answers every write with ENOSPC: what the wrapper reports is what a kernel really says."""
    with pytest.raises(OSError, match=r'cannot write out\.bin: No space left on device; the disk is full'):  # noqa: SIM117
        with fileio._explained('out.bin', only=fileio._FULL):
            Path('/dev/full').write_bytes(b'x')


def test_unwritable_places(tmp_path):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(NotADirectoryError, match=r'cannot write .*file/a: .*is a file, not a folder'):
        atomic_write_text(tmp_path / 'file' / 'a', 'x')
    with pytest.raises(IsADirectoryError, match='give the name of a file in it'):
        atomic_write_text(tmp_path / 'folder', 'x')
    with pytest.raises(OSError, match='neither a file nor a new name'):
        atomic_write_text('/dev/null', 'x')
    assert stat.S_ISCHR(Path('/dev/null').stat().st_mode)
    assert names(tmp_path) == ['file', 'folder']


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_read_only_folder(tmp_path):
    folder = tmp_path / 'locked'
    folder.mkdir(mode=0o555)
    with pytest.raises(PermissionError, match=r'locked/a: .*choose a folder of your own'):
        atomic_write_text(folder / 'a', 'x')


def test_permission_error_is_explained(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(fileio.os, 'open', refused)
    with pytest.raises(PermissionError, match=r'/a: Permission denied; .*choose a folder of your own'):
        atomic_write_text(tmp_path / 'a', 'x')


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    contents = [bytes([letter]) * 100_000 for letter in range(8)]
    threads = [
        threading.Thread(target=lambda data=data: [atomic_write_bytes(tmp_path / 'a', data) for _ in range(10)])
        for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / 'a').read_bytes() in contents
    assert names(tmp_path) == ['a']


def test_dir_appears_whole(tmp_path):
    with atomic_dir(tmp_path / 'deep' / 'set') as partial:
        (partial / 'sub').mkdir()
        (partial / 'sub' / 'a').write_text('x')
        assert not (tmp_path / 'deep' / 'set').exists()
    assert (tmp_path / 'deep' / 'set' / 'sub' / 'a').read_text() == 'x'
    assert names(tmp_path / 'deep') == ['set']


def test_dir_over_an_empty_folder(tmp_path):
    (tmp_path / 'set').mkdir()
    with atomic_dir(tmp_path / 'set') as partial:
        (partial / 'a').write_text('x')
    assert names(tmp_path / 'set') == ['a']


def test_dir_refuses_and_replaces(tmp_path):
    target = tmp_path / 'set'
    target.mkdir()
    (target / 'old').write_text('x')
    with pytest.raises(FileExistsError, match=r'set exists and is not empty: remove it'), atomic_dir(target):
        pytest.fail('the block ran')
    with pytest.raises(ZeroDivisionError), atomic_dir(target, replace=True) as partial:
        (partial / 'new').write_text(str(1 / 0))
    assert names(target) == ['old']
    with atomic_dir(target, replace=True) as partial:
        (partial / 'new').write_text('x')
    assert names(target) == ['new']
    assert names(tmp_path) == ['set']


def test_dir_over_a_file(tmp_path):
    (tmp_path / 'set').write_text('x')
    with pytest.raises(NotADirectoryError, match='there is a file of that name'), atomic_dir(tmp_path / 'set'):
        pytest.fail('the block ran')


KILLED = """
    import importlib.util, os, signal, sys
    from pathlib import Path
    spec = importlib.util.spec_from_file_location('fileio', sys.argv[1])
    fileio = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fileio)
    target = Path(sys.argv[2])
    with fileio.atomic_dir(target / 'set') as folder, fileio.atomic_path(target / 'file') as file:
        (folder / 'a').write_text('half')
        file.write_text('half')
        print('ready', flush=True)
        if sys.argv[3] == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.read()
"""


def start(tmp_path: Path, what: str) -> subprocess.Popen:
    command = [sys.executable, '-c', textwrap.dedent(KILLED), str(FILEIO), str(tmp_path), what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == 'ready\n'
    return process


def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path):
    killed = start(tmp_path, 'kill')
    assert killed.wait(30) == -signal.SIGKILL
    leftovers = names(tmp_path)
    assert len(leftovers) == 2
    assert all('.partial-' in name for name in leftovers)

    living = start(tmp_path, 'wait')
    try:
        now = names(tmp_path)
        assert len(now) == 2
        assert not set(now) & set(leftovers)
        with atomic_dir(tmp_path / 'set') as partial:
            (partial / 'a').write_text('whole')
        atomic_write_text(tmp_path / 'file', 'whole')
        assert set(now) < set(names(tmp_path))
    finally:
        living.kill()
        living.wait(30)
    atomic_write_text(tmp_path / 'file', 'whole')
    with atomic_dir(tmp_path / 'set', replace=True) as partial:
        (partial / 'a').write_text('whole')
    assert names(tmp_path) == ['file', 'set']
