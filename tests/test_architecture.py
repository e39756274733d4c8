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
    'errors': set(),
    'fileio': set(),
    'registry': set(),
    'compat': {'fileio'},
    'models': {'registry'},
    'datasets': {'fileio'},
    'apis': {'errors', 'fileio', 'registry', 'compat', 'models', 'datasets', 'version'},
    'deploy': {'errors', 'fileio', 'registry', 'compat', 'version', 'apis'},
    '__init__': {'version', 'compat', 'models', 'registry'},
    'benchmark': {'errors', 'fileio', 'compat', 'models', 'apis', 'deploy', 'version'},
    '__main__': {'apis', 'deploy', 'benchmark'},
}


# folder or file of mmtrtvit/deploy -> what it may import of deploy and of the other floors
DEPLOY: dict[str, set[str]] = {
    '__init__': {'steps', 'inference'},
    'ops': set(),
    'graphs': {'ops', 'errors'},
    'backends': {'fileio', 'errors'},
    'exporter': {'graphs', 'ops', 'fileio', 'errors'},
    'precision': {'graphs', 'exporter', 'fileio', 'errors'},
    'sizing': {'apis'},
    'preprocess': {'sizing', 'ops', 'backends', 'errors'},
    'inference': {'preprocess', 'ops', 'backends', 'errors', 'picture'},
    'evaluate': {'inference', 'preprocess', 'sizing', 'backends', 'errors', 'apis'},
    'profiler': {'inference', 'preprocess', 'backends', 'errors', 'apis'},
    'picture': {'ops', 'apis', 'fileio'},
    'config': {'backends', 'exporter', 'graphs', 'ops', 'apis'},
    'untrained': {'preprocess'},
    'calibration': {'config', 'graphs', 'preprocess', 'apis'},
    'parity': {'graphs'},
    'steps': {
        'calibration', 'config', 'exporter', 'graphs', 'inference', 'precision', 'preprocess', 'untrained', 'backends',
        'apis',
    },
    'pipeline': {
        'steps', 'parity', 'picture', 'config', 'exporter', 'graphs', 'inference', 'precision', 'preprocess',
        'backends', 'apis', 'fileio',
    },
}  # fmt: skip
# packages that a floor of deploy must do without
FOREIGN = {
    'ops': ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'),
    'backends': ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'),
}


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from names


def imports_of_ours(path: Path) -> Iterator[str]:
    """Floors that a file imports."""
    for name in imported_names(path):
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


def test_the_floors_of_deploy() -> None:
    """ops knows torch alone, backends know ONNX and tensors, graphs know no backend."""
    wrong = []
    root = PACKAGE / 'deploy'
    for path in sorted(root.rglob('*.py')):
        floor = path.relative_to(root).parts[0].removesuffix('.py')
        for name in imported_names(path):
            parts = name.split('.')
            if parts[0] in FOREIGN.get(floor, ()):
                wrong.append(f'{path.relative_to(PACKAGE)} imports {name}')
            if parts[0] != 'mmtrtvit' or len(parts) < 2 or floor == 'tools':  # the command lines take everything
                continue
            used = parts[2] if parts[1] == 'deploy' and len(parts) > 2 else parts[1]
            if used != floor and used not in DEPLOY[floor]:
                wrong.append(f'{path.relative_to(PACKAGE)} imports {name}')
    assert wrong == []
