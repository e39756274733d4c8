"""Questions about installed packages, with and without ``pkg_resources``."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mmengine.utils
import pytest
from mmengine.config import config as config_module

from mmtrtvit.compat import packaging


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('mmengine', True),
        ('mmcv-lite', True),
        ('mmcv', True),
        ('json', True),
        ('no-such-package', False),
        ('nope', False),
    ],
)
def test_is_installed(name: str, expected: bool) -> None:
    assert mmengine.utils.is_installed(name) is expected


@pytest.mark.parametrize('name', ['mmengine', 'mmcv-lite', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain'])
def test_get_installed_path(name: str) -> None:
    module = {'mmcv-lite': 'mmcv', 'mmsegmentation': 'mmseg'}.get(name, name)
    assert Path(mmengine.utils.get_installed_path(name)) == Path(mmengine.__file__).parents[1] / module


def test_missing_package() -> None:
    with pytest.raises(metadata.PackageNotFoundError, match='no-such-package'):
        mmengine.utils.get_installed_path('no-such-package')


def test_namespace_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a_namespace').mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not mmengine.utils.is_installed('a_namespace')
    with pytest.raises(RuntimeError, match='namespace package'):
        mmengine.utils.get_installed_path('a_namespace')


def test_modules_that_imported_by_name_have_it_too() -> None:
    assert config_module.is_installed is packaging.is_installed
    assert config_module.get_installed_path is packaging.get_installed_path


def test_base_of_another_library_without_pkg_resources() -> None:
    """In a new process, since mmengine imports it late; ``None`` in sys.modules makes an import fail."""
    code = (
        'import sys; sys.modules["pkg_resources"] = None\n'
        'import mmtrtvit\n'
        'from mmengine.config import Config\n'
        'cfg = Config.fromstring("_base_ = [\'mmdet::_base_/default_runtime.py\']", ".py")\n'
        'print(cfg.default_scope)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == 'mmdet', done.stderr
