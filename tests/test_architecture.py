"""No import upwards: which floor may import which of ours is docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mmtrtvit

PACKAGE = Path(mmtrtvit.__file__).parent

# floor -> the floors of ours it may import
ALLOWED: dict[str, set[str]] = {
    'version': set(),
    'fileio': set(),
    'registry': set(),
    'compat': {'fileio'},
    'models': {'registry'},
    'datasets': {'fileio'},
    'apis': {'fileio', 'registry', 'compat', 'models', 'datasets', 'version'},
    '__init__': {'version', 'compat', 'models', 'registry'},
    '__main__': {'apis'},
}


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_of_ours(path: Path) -> Iterator[str]:
    """Floors that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split('.')
            if parts[0] == 'mmtrtvit' and len(parts) > 1:
                yield parts[1]


def test_every_module_imports_downwards_only() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob('*.py')):
        floor = floor_of(path)
        if floor in ('configs', '.mim') or 'overlay' in path.parts:
            continue
        assert floor in ALLOWED, f'{path}: {floor} has no place in docs/architecture.md'
        wrong += [
            f'{path.relative_to(PACKAGE)} imports mmtrtvit.{used}'
            for used in imports_of_ours(path)
            if used != floor and used not in ALLOWED[floor]
        ]
    assert wrong == []


def test_models_need_no_detector_library() -> None:
    for path in sorted((PACKAGE / 'models').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split('.')[0] for name in names} & {'mmdet', 'mmseg', 'mmpretrain'}, path
