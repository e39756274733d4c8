"""What is looked for before a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrtvit.apis import preflight
from mmtrtvit.apis.errors import UserError
from tests.tiny import make_coco


@pytest.mark.parametrize(('dataset', 'needed'), [
    (dict(type='CIFAR10', data_root='nowhere/', split='train'), []),
    (dict(type='CIFAR10', data_root='nowhere', split='train', download=False), ['nowhere']),
    (dict(type='CUB', data_root='nowhere', split='train'), ['nowhere']),
    (dict(type='mmpretrain.ImageNet', data_root='nowhere', split='val'), ['nowhere/val']),
    (dict(type='ImageNet', data_root='nowhere', data_prefix='other', split='val'), ['nowhere/other']),
])  # fmt: skip
def test_a_split_is_a_folder_of_imagenet_only(dataset: dict[str, Any], needed: list[str]) -> None:
    assert [path.as_posix() for path in preflight._paths(dataset)] == needed


def test_preflight_reads_coco_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit only the first character is looked at."""
    root = make_coco(tmp_path / 'd')
    assert preflight._read_json(root / 'instances.json', 'x')['categories'][0] == {'id': 1, 'name': 'a'}
    monkeypatch.setattr(preflight, '_PARSED_BYTES', 10)
    assert preflight._read_json(root / 'instances.json', 'x') is None
    (root / 'instances.json').write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(UserError, match='not a JSON annotation file'):
        preflight._read_json(root / 'instances.json', 'x')
