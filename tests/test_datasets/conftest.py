from __future__ import annotations

from pathlib import Path

import pytest

from mmtrtvit.datasets import Parameters, generate

SMALL = Parameters(seed=3, train=40, val=24, size=128)


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated set; tests read it and leave it alone."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert generate(root, SMALL) is True
    return root
