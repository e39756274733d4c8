"""What the tests of mistakes share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tool = Callable[..., str]


def edit(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the annotation file of the tiny data set."""
    path = tmp_path / 'data' / 'instances.json'
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path
