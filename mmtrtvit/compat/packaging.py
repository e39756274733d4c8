"""``mmengine.utils.is_installed`` and ``get_installed_path`` without ``pkg_resources``.

For mmengine 0.10.7 on setuptools >= 82, which no longer has ``pkg_resources``: both functions raise
``ModuleNotFoundError``, and with them every config whose ``_base_`` has a scope (``'mmdet::...'``), mmengine's
visualizer backends and the FLOPs counter. What is done: the same answers from ``importlib``.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import mmengine.utils
import mmengine.utils.package_utils as package_utils


def is_installed(package: str) -> bool:
    """Whether a distribution or an importable module has this name.

    Args:
        package: Name of the distribution (``'mmcv-lite'``) or of the module (``'mmcv'``).
    """
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def package2module(package: str) -> str:
    """Name of the module that a distribution installs first.

    Raises:
        ValueError: The distribution does not say.
    """
    top_level = metadata.distribution(package).read_text('top_level.txt')
    if not top_level or not top_level.strip():
        raise ValueError(f'can not infer the module name of {package}')
    return top_level.split()[0]


def get_installed_path(package: str) -> str:
    """Folder of an installed package.

    Args:
        package: Name of the distribution or of the module.

    Raises:
        importlib.metadata.PackageNotFoundError: Neither is installed.
        RuntimeError: It is a namespace package, which has no one folder.
    """
    try:
        module = package if importlib.util.find_spec(package) else package2module(package)
    except metadata.PackageNotFoundError:
        raise metadata.PackageNotFoundError(package) from None
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package, which is invalid for `get_install_path`')
    return str(Path(spec.origin).parent)


def install() -> None:
    """Replace the three functions wherever mmengine and its children have imported them by name."""
    for function in (is_installed, get_installed_path, package2module):
        original = getattr(package_utils, function.__name__)
        if original is function:
            continue
        setattr(package_utils, function.__name__, function)
        for name, module in list(sys.modules.items()):
            if name.split('.')[0].startswith('mm') and getattr(module, function.__name__, None) is original:
                setattr(module, function.__name__, function)
    mmengine.utils.is_installed = is_installed
    mmengine.utils.get_installed_path = get_installed_path
