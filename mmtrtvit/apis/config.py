"""From the words of a command line to a checked mmengine ``Config``."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.config.config import ConfigParsingError
from mmengine.utils import get_installed_path

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.options import check_options
from mmtrtvit.compat import config_path
from mmtrtvit.compat.config_scope import find_config

#: Packages whose configs can be named ``PACKAGE::NAME``.
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments every tool has: CONFIG, ``--cfg-options`` and ``--debug``."""
    parser.add_argument(
        'config',
        help='config: a path, a name below the configs that come with mmtrtvit, or LIBRARY::NAME '
        '(mmdet::retinanet/retinanet_r50_fpn_1x_coco.py)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        type=key_value,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=4 model.backbone.arch=a; '
        'a list is key="[a,b]" or key=a,b',
    )
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')


def key_value(word: str) -> str:
    """Check one word of ``--cfg-options``, as the ``type`` of an argument.

    Raises:
        argparse.ArgumentTypeError: It is not of the form KEY=VALUE.
    """
    if not word.partition('=')[0] or '=' not in word:
        raise argparse.ArgumentTypeError(f'{word!r} is not KEY=VALUE')
    return word


class _Options(DictAction):
    """mmengine's reader of ``--cfg-options``, with an error of the command line for brackets that do not close."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def resolve_config(name: str) -> Path:
    """The file that a config argument means.

    A file that exists wins; then ``mmtrtvit::NAME`` and plain ``NAME`` (also with a leading
    ``configs/``) are looked up among the configs that come with the package, ``mmdet::NAME``, ``mmseg::NAME`` and
    ``mmpretrain::NAME`` among those that come with that library.

    Raises:
        UserError: Neither exists.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f'{name} is a folder, not a config file')
    library, colons, relative = name.partition('::')
    try:
        if colons and library in LIBRARIES:
            return find_config(library, Path(get_installed_path(library)) / '.mim' / 'configs', relative)
        return config_path(name.removeprefix('configs/'))
    except ConfigParsingError as error:
        looked = '' if colons else f'no file {path.absolute()}; '
        raise UserError(f'config not found: {looked}{error}') from error


def load_config(name: str, cfg_options: dict[str, Any] | None = None) -> Config:
    """Read a config and merge ``--cfg-options`` into it.

    Args:
        name: As for :func:`resolve_config`.
        cfg_options: Dotted keys and their values.

    Raises:
        UserError: The file is not there or not a config, or an option is one that nothing reads.
    """
    path = resolve_config(name)
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is the user's program: whatever it raises is for him to read
        raise UserError(f'{name}: {_reason(error, path)}') from error
    if cfg_options:
        try:
            check_options(cfg, cfg_options, name)
            cfg.merge_from_dict(cfg_options)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise UserError(f'--cfg-options for {name}: {error}') from error
    return cfg


def dataset_of_test(cfg: Any) -> Any:
    """The data set that a config tests on, within any wrappers: the one with the pipeline; empty where there is none.

    Args:
        cfg: A config, or None.
    """
    dataset = ((cfg or {}).get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return dataset


def check_has_model(cfg: Config) -> None:
    """Refuse a part that others inherit, a deploy config and whatever else has no model.

    Raises:
        UserError: There is no ``model``, or one that lacks what its testing needs; names the file.
    """
    if not isinstance(cfg.get('model'), dict):
        name = cfg.filename or 'the config'
        raise UserError(f'{name} has no model: it is no model config, or a part that others inherit')
    test_cfg = cfg.model.get('test_cfg')
    if isinstance(test_cfg, dict) and test_cfg.get('mode') == 'slide':
        missing = [key for key in ('crop_size', 'stride') if not test_cfg.get(key)]
        if missing:  # mmseg finds out in the first evaluation, which may be hours away
            raise UserError(
                f"{cfg.filename or 'the config'}: model.test_cfg.mode='slide' needs {' and '.join(missing)} as well, "
                'such as crop_size=(512, 512), stride=(341, 341)'
            )


def check_has_loop(cfg: Config, split: str) -> None:
    """Refuse a config that lacks a part of what a loop needs.

    Args:
        cfg: The merged config.
        split: ``'train'``, ``'val'``, which may be left out as a whole, or ``'test'``.

    Raises:
        UserError: Names what is missing.
    """
    last = 'optim_wrapper' if split == 'train' else f'{split}_evaluator'
    parts = [f'{split}_dataloader', f'{split}_cfg', last]
    missing = [key for key in parts if cfg.get(key) is None]
    if not missing or (split == 'val' and missing == parts):
        return
    ways_out = {
        'train': 'it cannot be trained: is it a part that others inherit?',
        'val': f'to train without validation set {", ".join(parts)} to None, all three',
        'test': f'it cannot be tested: many configs have {missing[0]} = {missing[0].replace("test", "val", 1)}',
    }
    raise UserError(f'{cfg.filename or "the config"} has no {", ".join(missing)}: {ways_out[split]}')


def _reason(error: Exception, path: Path) -> str:
    """One line on why a config cannot be read, with the line of the file where there is one."""
    cause = error
    while isinstance(cause.__cause__ or cause.__context__, Exception) and not isinstance(cause, SyntaxError):
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]  # checked in the condition
    if isinstance(cause, SyntaxError):
        return f'syntax error in line {cause.lineno}: {cause.msg}: {(cause.text or "").strip()}'
    text = ' '.join(str(error).split()) or type(error).__name__
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    where = f' (line {lines[-1]})' if lines else ''
    return f'cannot be read: {type(error).__name__}: {text}{where}'


def default_work_dir(name: str) -> str:
    """``work_dirs/<config name>``, as mmdet's own tools choose it."""
    return str(Path('work_dirs') / Path(name.removeprefix('mmtrtvit::')).stem)
