"""``_base_ = 'mmtrtvit::mask_rcnn_trtvit.py'``: our configs as bases of a user's own.

For mmengine 0.10.7, whose ``Config._get_cfg_path`` demands a folder after ``::`` and knows a fixed
list of packages. A config of ours is then read exactly as a local file, without a scope of its own:
its ``default_scope`` says which library builds it.

New-style configs (``with read_base(): from mmtrtvit.configs.mask_rcnn_trtvit import *``) need no
mend: the wheel carries one small bridge module a config, which calls :func:`load_as_namespace`.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.config import ConfigParsingError

_PREFIX = 'mmtrtvit::'
_PACKAGE = Path(__file__).resolve().parents[1]

#: The folder of the configs: inside the package in a wheel, beside it in a checkout.
CONFIG_ROOT: Path = next(
    (root for root in (_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs') if root.is_dir()),
    _PACKAGE / '.mim' / 'configs',
)


def config_path(name: str) -> Path:
    """Absolute path of one of our configs.

    Args:
        name: Path below ``configs/``, with or without ``mmtrtvit::`` and ``.py``:
            ``'mask_rcnn_trtvit.py'``, ``'mmtrtvit::twins/retinanet_twins-svt-s'``.

    Raises:
        ConfigParsingError: No such config; the message lists the nearest names.
    """
    return find_config('mmtrtvit', CONFIG_ROOT, name.removeprefix(_PREFIX))


def find_config(package: str, root: Path, name: str) -> Path:
    """Absolute path of a package's config.

    Args:
        package: Name of the package, for the message.
        root: The folder of its configs.
        name: Path below ``root``, with or without ``.py``.

    Raises:
        ConfigParsingError: No such config; the message lists those of the nearest names.
    """
    path = root / (name if name.endswith('.py') else f'{name}.py')
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        paths = [found.relative_to(root) for found in sorted(root.rglob('*.py'))]
        # parts are named only to who looks for one
        known = {found.stem: found.as_posix() for found in paths if '_base_' in name or '_base_' not in found.parts}
        near = [known[stem] for stem in difflib.get_close_matches(path.stem, known, n=3, cutoff=0.3)]
        hint = f'. Near it: {", ".join(near)}' if near else ''
        raise ConfigParsingError(f'{package}::{name}: {package} has no such config below {root}{hint}')
    return path


def load_as_namespace(name: str) -> dict[str, Any]:
    """The merged top-level variables of one of our configs, for a new-style bridge module."""
    return dict(Config.fromfile(config_path(name)))


def install() -> None:
    """Teach ``Config`` the ``mmtrtvit::`` prefix."""
    original = Config._get_cfg_path
    if getattr(original, '_mmtrtvit', False):
        return

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(_PREFIX):
            return str(config_path(cfg_path)), None
        return original(cfg_path, filename)

    get_cfg_path._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    Config._get_cfg_path = staticmethod(get_cfg_path)
