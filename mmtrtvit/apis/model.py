"""A model from its config and a checkpoint, as the deployment tools need it: alone, on the CPU, in eval mode."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from mmengine import registry as root
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model
from torch import nn

from mmtrtvit.apis.config import check_has_model
from mmtrtvit.apis.launch import check_checkpoint
from mmtrtvit.apis.weights import CheckWeightsHook

#: In the place of a checkpoint: random weights.
NO_CHECKPOINT = 'none'
#: Share of the model's tensors that a checkpoint must have.
AT_LEAST = 0.9


def build_model(cfg: Config, checkpoint: str, seed: int = 0) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a model and load its weights.

    Args:
        cfg: A model config of mmdet, mmseg or mmpretrain.
        checkpoint: A file or URL, or ``'none'`` for random weights.
        seed: Of the random weights.

    Returns:
        The model in eval mode on the CPU, and the names of its classes (empty where nothing tells them).

    Raises:
        UserError: The config holds no model, or the checkpoint is not there or not of this model.
    """
    check_has_model(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if checkpoint != NO_CHECKPOINT:
        check_checkpoint(checkpoint)
    definition = cfg.model.copy()
    without_initial_weights(definition)
    if cfg.get('data_preprocessor') is not None:  # mmpretrain's configs keep it beside the model; as mmengine's runner
        definition.setdefault('data_preprocessor', cfg.data_preprocessor)
    torch.manual_seed(seed)
    with quiet():  # mmpretrain tells how its classifiers augment in training
        model: Any = MODELS.build(definition)
    meta: dict[str, Any] = {}
    if checkpoint != NO_CHECKPOINT:
        loaded = _load_checkpoint(checkpoint, map_location='cpu')
        CheckWeightsHook(checkpoint, AT_LEAST).after_load_checkpoint(SimpleNamespace(model=model), loaded)
        _load_checkpoint_to_model(model, loaded)
        meta = loaded.get('meta', {}) if isinstance(loaded, dict) else {}
    else:
        with quiet():  # a line a parameter otherwise
            model.init_weights()
    return model.eval(), class_names(cfg, meta)


@contextmanager
def quiet() -> Iterator[None]:
    """Let mmengine's logger through from warnings on."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def without_initial_weights(definition: Any) -> None:
    """Drop every ``init_cfg`` that would read a file or a URL: the checkpoint has all weights, or none are wanted."""
    if isinstance(definition, dict):
        init = definition.get('init_cfg')
        if isinstance(init, dict) and init.get('checkpoint'):
            definition['init_cfg'] = None
        if 'pretrained' in definition:
            definition['pretrained'] = None
        for value in definition.values():
            without_initial_weights(value)
    elif isinstance(definition, (list, tuple)):
        for value in definition:
            without_initial_weights(value)


def class_names(cfg: Config, meta: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes: of the checkpoint, else of the config's data set, else of its type."""
    known = meta.get('dataset_meta') or {}
    known = {str(key).lower(): value for key, value in known.items()}
    if known.get('classes'):
        return _names(known['classes'])
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        stated = dataset.get('metainfo') or {}
        if stated.get('classes'):
            return _names(stated['classes'])
        kind = root.DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else None
        known = getattr(kind, 'METAINFO', {}) if inspect.isclass(kind) else {}
        if known.get('classes'):
            return _names(known['classes'])
    return ()


def _names(classes: Any) -> tuple[str, ...]:
    return (
        tuple(str(name) for name in classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else ()
    )
