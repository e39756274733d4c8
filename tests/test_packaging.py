"""The wheel, in a virtual environment of its own, far from any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE_PACKAGES = Path(sysconfig.get_path('purelib'))

# A child config that trains in seconds: everything else is the demo's.
SMALL = """
model = dict(
    backbone=dict(arch=dict(_delete_=True, channels=(32, 64, 64, 64), depths=(1, 1, 1, 1))),
    neck=dict(in_channels=[32, 64, 64, 64]),
)
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""

TEXT_STYLE = "_base_ = 'mmtrtvit::demo/mask_rcnn_trtvit_shapes.py'\n" + SMALL

NEW_STYLE = """
from mmengine.config import read_base

with read_base():
    from mmtrtvit.configs.demo.mask_rcnn_trtvit_shapes import *

model.backbone.update(arch=dict(channels=(32, 64, 64, 64), depths=(1, 1, 1, 1)))
model.neck.update(in_channels=[32, 64, 64, 64])
train_cfg.update(max_epochs=1, val_interval=1)
train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader.update(num_workers=0, persistent_workers=False)
"""

MMDET_FIRST = """
import mmdet.apis
import mmcv.ops
import mmcv._ext
import torch

boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
kept = mmcv.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)[1]
print(mmcv._ext.__file__)
print(kept.tolist())
"""


@pytest.fixture(scope='session')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout gets no build folder."""
    source = tmp_path_factory.mktemp('source')
    for name in ('mmtrtvit', 'configs', 'tools'):
        ignored = shutil.ignore_patterns('__pycache__') if name != 'mmtrtvit' else ignore_generated
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(out), '.']
    subprocess.run(pip, cwd=source, check=True)
    (built,) = out.glob('mmtrtvit-*.whl')
    return built


def ignore_generated(folder: str, names: list[str]) -> set[str]:
    """Leave out caches and the bridge modules, which the build makes."""
    generated = {'configs'} if Path(folder) == ROOT / 'mmtrtvit' else set()
    return {name for name in names if name == '__pycache__'} | generated


@pytest.fixture(scope='session')
def user_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's Python: a new environment with mmcv-lite and the wheel; the big dependencies are borrowed."""
    home = tmp_path_factory.mktemp('a user') / 'venv'
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / 'lib').glob('python*')) / 'site-packages'
    for found in SITE_PACKAGES.glob('mmcv*'):
        shutil.copytree(found, site / found.name, ignore=shutil.ignore_patterns('__pycache__'))
    # A path line adds the folder but not its own .pth files: the checkout installed there in place stays invisible.
    (site / 'borrowed.pth').write_text(f'{SITE_PACKAGES}\n', encoding='utf-8')
    python = home / 'bin' / 'python'
    pip = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '-q', '--no-deps', '--no-index', str(wheel)]
    subprocess.run(pip, check=True)
    return python


@pytest.fixture(scope='session')
def user_folder(user_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An otherwise empty folder with a small generated data set where the demo's config looks for it."""
    folder = tmp_path_factory.mktemp('a project')
    run(user_python, folder, '-m', 'mmtrtvit.datasets', 'data/shapes', '--train', '4', '--val', '2', '--size', '96')
    return folder


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run the user's Python in a folder and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
    done = subprocess.run([python, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_wheel_holds_configs_tools_and_the_mmcv_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')}
    assert {f'mmtrtvit/.mim/{config}' for config in configs} <= names
    assert {f'mmtrtvit/{config.replace("-", "_")}' for config in configs} <= names
    assert {
        'mmcv/_ext.py',
        'mmtrtvit/py.typed',
        'mmtrtvit/.mim/tools/train.py',
        'mmtrtvit/.mim/model-index.yml',
    } <= names
    assert [name for name in names if name.startswith(('tests/', 'configs/', 'tools/'))] == []


def test_mmdet_before_mmtrtvit(user_python: Path, tmp_path: Path) -> None:
    where, kept = run(user_python, tmp_path, '-c', MMDET_FIRST).strip().splitlines()[-2:]
    assert Path(where).is_relative_to(user_python.parents[1])
    assert kept == '[1, 2]'


@pytest.mark.parametrize('style', ['text', 'new'])
def test_a_config_of_the_users_own_trains(user_python: Path, user_folder: Path, style: str) -> None:
    config = user_folder / f'{style}.py'
    config.write_text({'text': TEXT_STYLE, 'new': NEW_STYLE}[style], encoding='utf-8')
    out = run(user_python, user_folder, '-m', 'mmtrtvit', 'train', config.name)
    assert 'Epoch(val) [1]' in out
    assert (user_folder / 'work_dirs' / style / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_pip_installs_the_wheel_with_its_dependencies(wheel: Path, short_lived_path: Path) -> None:
    """The real thing: a new environment, pip resolves and downloads what the wheel asks for."""
    venv.create(short_lived_path / 'venv', with_pip=True)
    python = short_lived_path / 'venv' / 'bin' / 'python'
    run(python, short_lived_path, '-m', 'pip', 'install', '-q', '-c', str(ROOT / 'constraints.txt'), str(wheel))
    assert run(python, short_lived_path, '-c', MMDET_FIRST).strip().endswith('[1, 2]')
