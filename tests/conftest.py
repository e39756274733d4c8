"""What many tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--slow', action='store_true', help='also run the tests marked slow')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption('--slow'):
        return
    deselected = [item for item in items if 'slow' in item.keywords]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if 'slow' not in item.keywords]


def pytest_configure(config: pytest.Config) -> None:
    import torch

    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(autouse=True)
def _own_default_scope() -> Iterator[None]:
    """mmengine keeps the default scope of the last runner in a global: every test begins without one.

    What fixtures of a module or session left there would otherwise reach the tests of other files.
    """
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict = type(DefaultScope._instance_dict)()
    yield
    DefaultScope._instance_dict = type(DefaultScope._instance_dict)()


@pytest.fixture
def short_lived_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes with its test: hundreds of engines and whole environments would fill the disk in one run."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)
