"""From the words behind ``--models`` to configs: a config file, the name of one of ours, or that of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.errors import UserError, near
from mmtrtvit.compat import CONFIG_ROOT

__all__ = ['MODEL_TASKS', 'Model', 'backbone_of', 'deploy_task', 'find_model', 'known_models']

#: What a backbone's name can be completed with: ``trtvit-c`` to ``mask_rcnn_trtvit``.
MODEL_TASKS = ('mask_rcnn', 'retinanet', 'upernet', 'semantic_fpn', 'imagenet')
#: Folders without whole models of the zoo.
_NOT_MODELS = ('_base_', 'deploy', 'demo', 'examples')


@dataclass(frozen=True)
class Model:
    """A model to be measured.

    Attributes:
        name: Stem of its config.
        backbone: Key of the published figures, '' for a config that is not of the zoo.
        cfg: The config.
    """

    name: str
    backbone: str
    cfg: Config


@cache
def known_models() -> dict[str, Path]:
    """Configs of the zoo by their stem."""
    files = sorted(CONFIG_ROOT.rglob('*.py'))
    return {path.stem: path for path in files if not set(_NOT_MODELS) & set(path.relative_to(CONFIG_ROOT).parts)}


def backbone_of(stem: str) -> str:
    """The backbone's name in the stem of a config of the zoo: ``twins-svt-s`` of ``upernet_twins-svt-s``."""
    name = stem.removesuffix('_imagenet').removesuffix('_3x')
    for task in MODEL_TASKS:
        name = name.removeprefix(f'{task}_')
    return 'trtvit-c' if name == 'trtvit' else name


def find_model(word: str, task: str = 'mask_rcnn') -> Model:
    """Find the model that a word means.

    Args:
        word: A path, the stem of a config of the zoo (``retinanet_swin-t``), or a backbone (``swin-t``).
        task: Which of a backbone's models, one of :data:`MODEL_TASKS`.

    Raises:
        UserError: There is none; names those that are near.
    """
    if Path(word).is_file() or '::' in word:
        cfg = load_config(word)
        stem = Path(str(cfg.filename)).stem
        return Model(stem, backbone_of(stem) if stem in known_models() else '', cfg)
    stems = known_models()
    short = word.removesuffix('.py').rpartition('/')[2]
    if short in stems:
        return Model(short, backbone_of(short), load_config(str(stems[short])))
    for stem in stems:
        if backbone_of(stem) == short and not stem.endswith('_3x') and _is_of(stem, task):
            return Model(stem, short, load_config(str(stems[stem])))
    backbones = sorted({backbone_of(stem) for stem in stems})
    if short in backbones:
        tasks = [task for task in MODEL_TASKS if any(backbone_of(s) == short and _is_of(s, task) for s in stems)]
        there = f'; --task {" or ".join(tasks)} has one' if tasks else ''
        raise UserError(f'{word}: there is no {task} config with this backbone{there}')
    hint = near(short, [*backbones, *stems], 0.5)
    raise UserError(
        f'{word}: neither a config file, nor a config of the zoo, nor a backbone{hint}; '
        f'the backbones are {", ".join(backbones)}'
    )


def _is_of(stem: str, task: str) -> bool:
    return stem.endswith('_imagenet') if task == 'imagenet' else stem.startswith(f'{task}_')


def deploy_task(cfg: Config) -> str:
    """The task of a model, as the names of the deploy configs have it.

    Raises:
        UserError: The config is of none of the three libraries.
    """
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        return 'segmentation'
    if scope == 'mmpretrain':
        return 'classification'
    if scope == 'mmdet':
        heads = cfg.model.get('roi_head') or {}
        return 'instance-seg' if heads.get('mask_head') else 'detection'
    raise UserError(f'{cfg.filename}: default_scope={scope!r} is none of mmdet, mmseg, mmpretrain')
