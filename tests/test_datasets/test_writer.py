"""The set on the disk: the same bytes for the same parameters, and whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmtrtvit.datasets import DatasetError, Parameters, generate, writer
from mmtrtvit.datasets.__main__ import main
from tests.test_datasets.conftest import SMALL

TINY = Parameters(seed=1, train=12, val=10, size=64)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_same_parameters_same_bytes_whatever_the_workers(tmp_path):
    for workers in (1, 5):
        generate(tmp_path / str(workers), TINY, workers=workers)
    one = digests(tmp_path / '1')
    assert one == digests(tmp_path / '5')
    assert len(one) == 3 * (12 + 10) + 3


def test_another_seed_is_another_set(tmp_path):
    generate(tmp_path / 'a', TINY)
    generate(tmp_path / 'b', Parameters(seed=2, train=12, val=10, size=64))
    a, b = digests(tmp_path / 'a'), digests(tmp_path / 'b')
    assert a.keys() == b.keys()
    assert not [name for name in a if name.endswith(('.jpg', '.json')) and a[name] == b[name]]


def test_more_training_images_change_nothing_else(tmp_path):
    generate(tmp_path / 'a', TINY)
    generate(tmp_path / 'b', Parameters(seed=1, train=15, val=10, size=64))
    a, b = digests(tmp_path / 'a'), digests(tmp_path / 'b')
    assert {name for name in a if a[name] != b[name]} == {'annotations/instances_train2017.json', 'shapes.json'}


def test_train_and_val_are_disjoint(shapes_root):
    seen = {
        split: {hashlib.sha256(path.read_bytes()).digest() for path in (shapes_root / folder).iterdir()}
        for split, folder in writer.COCO_FOLDERS.items()
    }
    assert len(seen['train']) == SMALL.train
    assert len(seen['val']) == SMALL.val
    assert not seen['train'] & seen['val']


def test_second_call_writes_nothing(tmp_path, monkeypatch):
    assert generate(tmp_path / 'set', TINY) is True
    before = digests(tmp_path / 'set')
    monkeypatch.setattr(writer, '_fill', lambda *_: pytest.fail('generated again'))
    start = time.perf_counter()
    assert generate(tmp_path / 'set', TINY) is False
    assert time.perf_counter() - start < 1.0
    assert digests(tmp_path / 'set') == before
    assert files_below(tmp_path) == ['set']


def test_hard_links_save_space_and_may_be_missing(tmp_path, monkeypatch):
    generate(tmp_path / 'a', TINY)
    names = 'train2017/000000000001.jpg', 'images/training/000000000001.jpg'
    assert (tmp_path / 'a' / names[0]).samefile(tmp_path / 'a' / names[1])

    def unsupported(self, target):
        raise OSError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(Path, 'hardlink_to', unsupported)
    generate(tmp_path / 'b', TINY)
    assert not (tmp_path / 'b' / names[0]).samefile(tmp_path / 'b' / names[1])
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')


def test_other_parameters_are_refused_then_overwritten(tmp_path):
    generate(tmp_path / 'set', TINY)
    other = Parameters(seed=1, train=12, val=10, size=80)
    with pytest.raises(DatasetError, match=r'set: holds .* other parameters \(size=64 there, 80 wanted\); --overwrite'):
        generate(tmp_path / 'set', other)
    assert generate(tmp_path / 'set', TINY) is False
    assert generate(tmp_path / 'set', other, overwrite=True) is True
    assert generate(tmp_path / 'set', other) is False
    assert files_below(tmp_path) == ['set']


def test_an_older_format_is_not_taken_for_this_one(tmp_path):
    generate(tmp_path / 'set', TINY)
    manifest = json.loads((tmp_path / 'set' / 'shapes.json').read_text())
    manifest['format'] = 0
    (tmp_path / 'set' / 'shapes.json').write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=rf'format 0 there, {writer.FORMAT} wanted'):
        generate(tmp_path / 'set', TINY)


def test_damage_is_found(tmp_path):
    whole = tmp_path / 'whole'
    generate(whole, TINY)
    annotations = 'annotations/instances_val2017.json'
    for name, damage in {
        'val2017/000000500001.jpg': Path.unlink,
        'train2017/000000000003.jpg': lambda path: path.write_bytes(path.read_bytes()[:-1]),
        annotations: lambda path: path.write_text(path.read_text().replace('"id":1,', '"id":2,', 1)),
    }.items():
        copy = tmp_path / 'copy'
        shutil.copytree(whole, copy)
        damage(copy / name)
        with pytest.raises(DatasetError, match=rf'damaged \({name} .*; --overwrite makes it anew'):
            generate(copy, TINY)
        assert generate(copy, TINY, overwrite=True) is True
        assert digests(copy) == digests(whole)
        shutil.rmtree(copy)


@pytest.mark.parametrize('manifest', [None, 'not json', '[]', '{"format": 1}'])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path, manifest):
    (tmp_path / 'thesis.tex').write_text('precious')
    if manifest is not None:
        (tmp_path / 'shapes.json').write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(DatasetError, match=r'not empty and not a data set of this generator .*choose another folder'):
        generate(tmp_path, TINY, overwrite=True)
    assert digests(tmp_path) == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / 'file').write_text('precious')
    with pytest.raises(DatasetError, match=r'file is not empty and not a data set'):
        generate(tmp_path / 'file', TINY, overwrite=True)
    with pytest.raises(OSError, match=r'cannot write .*file/set: .*is a file, not a folder'):
        generate(tmp_path / 'file' / 'set', TINY)
    assert (tmp_path / 'file').read_text() == 'precious'


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'set').mkdir()
    assert generate(tmp_path / 'set', TINY) is True


def test_full_disk_while_writing(tmp_path, monkeypatch):
    real, left = Path.write_bytes, [20]

    def fills_up(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, 'write_bytes', fills_up)
    with pytest.raises(OSError, match=r'cannot write .*set: No space left on device; the disk is full: free some'):
        generate(tmp_path / 'set', TINY)
    assert files_below(tmp_path) == []


def test_full_disk_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(writer.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2**16))
    with pytest.raises(DatasetError, match=r'set: the data set may need 0 MiB and 0 MiB are free: free some space'):
        generate(tmp_path / 'set', TINY)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_interrupted_between_two_images(tmp_path, monkeypatch, error):
    real = writer._write_scene

    def interrupted(root, parameters, split, index):
        if (split, index) == ('val', 3):
            raise error
        return real(root, parameters, split, index)

    monkeypatch.setattr(writer, '_write_scene', interrupted)
    with pytest.raises(error):
        generate(tmp_path / 'set', TINY)
    assert files_below(tmp_path) == []


def take_ctrl_c() -> None:
    """As in the foreground: what a script starts with ``&``, these tests for one, has Ctrl-C ignored, children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_killed_while_writing(tmp_path, how):
    out = tmp_path / 'a folder' / 'set'
    command = [sys.executable, '-m', 'mmtrtvit.datasets', str(out), '--train', '100000', '--val', '8', '--size', '64']
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=take_ctrl_c)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(out.parent.glob('.*/train2017/*.jpg'))) < 5:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(how)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert not out.exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert stderr == f'interrupted: nothing was written to {out}\n'
        assert files_below(out.parent) == []
    else:
        assert process.returncode == -signal.SIGKILL
        assert len(files_below(out.parent)) == 1  # hidden, and removed by the next run:
    assert stdout == ''
    generate(out, TINY)
    assert files_below(out.parent) == ['set']


def test_command_line(tmp_path, capsys):
    arguments = [str(tmp_path / 'set'), '--seed', '1', '--train', '12', '--val', '10', '--size', '64']
    assert main(arguments) == 0
    assert capsys.readouterr().out == f'{tmp_path}/set: 12 + 10 images of 64 pixels, seed 1, made\n'
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith('seed 1, already there, whole\n')
    assert main([*arguments[:-1], '96']) == 2
    assert 'error: ' + str(tmp_path / 'set') in capsys.readouterr().err
    assert main([*arguments[:-1], '96', '--overwrite']) == 0
    assert generate(tmp_path / 'set', Parameters(1, 12, 10, 96)) is False


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['--train', '0'], 'argument --train=0 is out of range: choose 1 to 500000'),
        (['--val', '500001'], 'argument --val=500001 is out of range'),
        (['--size', '32'], 'argument --size=32 is out of range: choose 64 to 4096'),
        (['--seed', '-1'], 'argument --seed=-1 is out of range: choose 0 to'),
        (['--workers', '0'], 'argument --workers: 0 is less than 1'),
        (['--train', 'many'], "invalid int value: 'many'"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, text):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / 'set'), *arguments])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err
    assert files_below(tmp_path) == []
