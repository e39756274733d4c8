"""``make setup``: which interpreter, how much disk, what when it is interrupted or repeated."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, on a copy of what it reads, in a path with spaces; it starts no process."""
    root = tmp_path / 'a check out'
    root.mkdir()
    for name in ('setup.py', 'constraints.txt', 'pyproject.toml'):
        shutil.copy(ROOT / name, root)
    (root / 'tools').mkdir()
    shutil.copy(ROOT / 'tools' / 'setup_env.py', root / 'tools')
    (root / 'configs').mkdir()
    (root / 'configs' / 'a.py').touch()
    spec = importlib.util.spec_from_file_location('setup_env', root / 'tools' / 'setup_env.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv('PYTHON', raising=False)
    return module


@pytest.fixture
def commands(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that the script would run, one line each; making the environment leaves an interpreter."""
    ran: list[str] = []

    def run(command: list[str], what: str) -> None:
        ran.append(' '.join(map(str, command)))
        if command[1:3] == ['-m', 'venv']:
            Path(setup_env.PYTHON).parent.mkdir(parents=True)
            Path(setup_env.PYTHON).symlink_to(sys.executable)

    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env, 'find_python', lambda: sys.executable)
    monkeypatch.setattr(setup_env, 'check_opencv', lambda: None)
    monkeypatch.setattr(setup_env, 'check_disk', lambda: None)
    return ran


def interpreter(folder: Path, name: str, prints: str, status: int = 0) -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\n{prints}\nexit {status}\n', encoding='utf-8')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ('prints', 'status', 'said'),
    [
        ('echo "3.8 /usr/bin/python3.8"', 0, 'is Python 3.8'),
        ('echo "3.13 /usr/bin/python3.13"', 0, 'is Python 3.13'),
        ('echo "3.11 /usr/bin/python3.11"', 1, 'lacks the venv module'),
        ('echo "command not found" >&2', 127, 'command not found'),
    ],
)
def test_an_interpreter_that_will_not_do_is_named(
    setup_env: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prints: str,
    status: int,
    said: str,
) -> None:
    python = interpreter(tmp_path, 'my python', prints, status)
    monkeypatch.setenv('PYTHON', str(python))
    with pytest.raises(SystemExit) as stopped:
        setup_env.find_python()
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert f'{python}' in message
    assert said in message
    assert 'make setup PYTHON=' in message


def test_a_missing_interpreter_is_named(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('PYTHON', 'python3.99')
    with pytest.raises(SystemExit):
        setup_env.find_python()
    assert 'python3.99 (No such file or directory)' in capsys.readouterr().err


def test_a_newer_interpreter_is_found_beside_an_old_one(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = interpreter(tmp_path, 'python3', 'echo "3.6 /old"')
    interpreter(tmp_path, 'python3.11', 'echo "3.11 /right/python3.11"')
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}/bin')
    monkeypatch.setattr(setup_env.sys, '_base_executable', str(old), raising=False)
    monkeypatch.setattr(setup_env.sys, 'executable', str(old))
    assert setup_env.find_python() == '/right/python3.11'


def test_too_little_disk_is_said_before_anything_is_installed(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup_env.os, 'statvfs', lambda path: SimpleNamespace(f_bavail=2 * 2**20, f_frsize=1024))
    with pytest.raises(SystemExit):
        setup_env.check_disk()
    message = capsys.readouterr().err
    assert 'has 2.0 GB free, 9.0 GB are needed' in message
    assert 'another disk' in message


def test_a_second_call_does_nothing(setup_env: ModuleType, commands: list[str]) -> None:
    setup_env.main()
    assert any('-e .[dev,rtx,benchmark]' in command for command in commands)
    commands.clear()
    setup_env.main()
    assert commands == []


def test_an_interrupted_call_is_taken_up_again(
    setup_env: ModuleType, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install = setup_env.install

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, 'install', interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_env.main()
    monkeypatch.setattr(setup_env, 'install', install)
    commands.clear()
    setup_env.main()
    assert any('-e .[dev,rtx,benchmark]' in command for command in commands)


def add_config(root: Path) -> None:
    (root / 'configs' / 'b.py').touch()


def change_constraints(root: Path) -> None:
    with (root / 'constraints.txt').open('a', encoding='utf-8') as file:
        file.write('# changed\n')


@pytest.mark.parametrize('change', [add_config, change_constraints])
def test_what_changed_is_installed_again(
    setup_env: ModuleType, commands: list[str], change: Callable[[Path], None]
) -> None:
    setup_env.main()
    commands.clear()
    change(Path(setup_env.ROOT))
    setup_env.main()
    assert any('-e .[dev,rtx,benchmark]' in command for command in commands)


def test_a_half_made_environment_is_made_anew(setup_env: ModuleType, commands: list[str]) -> None:
    Path(setup_env.PYTHON).parent.mkdir(parents=True)
    Path(setup_env.PYTHON).symlink_to('/nonexistent/python')
    setup_env.main()
    assert any(' -m venv ' in command for command in commands)


def test_make_lists_its_targets() -> None:
    done = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ('setup', 'demo', 'test', 'test-slow', 'lint', 'clean'):
        assert f'make {target} ' in done.stdout
