"""The examples in docs/model.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'model.md'
BLOCKS = re.findall(r'```python\n(.*?)```', DOCUMENT.read_text(encoding='utf-8'), flags=re.DOTALL)


@pytest.mark.parametrize('number', range(len(BLOCKS)))
def test_example(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(BLOCKS[number], f'{DOCUMENT.name}, example {number + 1}', 'exec'), names)
    assert set(names) - {'__builtins__'}


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 4
