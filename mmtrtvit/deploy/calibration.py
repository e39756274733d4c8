"""The images that int8 is calibrated on: the user's own, as the engine will see them."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from mmengine import registry as root
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor

from mmtrtvit.apis.errors import UserError
from mmtrtvit.deploy.config import DeployConfig
from mmtrtvit.deploy.graphs.base import INPUT

__all__ = ['CalibrationBatches', 'calibration_batches', 'image_paths']


class Placed(Protocol):
    """An image on a canvas."""

    @property
    def tensor(self) -> Tensor:
        """``(3, H, W)`` float32 or ``(H, W, 3)`` uint8."""


class Preprocess(Protocol):
    """From an image file to the canvas (:class:`mmtrtvit.deploy.preprocess.Letterbox`)."""

    def __call__(self, image: str) -> Placed:
        """Read an image and put it on the canvas."""


class CalibrationBatches:
    """Batches of images, read when they are asked for, as often as they are.

    Args:
        paths: Image files; the last batch is filled up from the first ones.
        preprocess: From a file to the canvas.
        batch_size: Images a batch.
    """

    def __init__(self, paths: list[str], preprocess: Preprocess, batch_size: int) -> None:
        self.paths = paths
        self.preprocess = preprocess
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.paths) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for number in range(len(self)):
            first = number * self.batch_size
            chosen = [self.paths[index % len(self.paths)] for index in range(first, first + self.batch_size)]
            yield {INPUT: np.stack([self.preprocess(path).tensor.numpy() for path in chosen])}


def calibration_batches(model_cfg: Config, deploy_cfg: DeployConfig, preprocess: Preprocess) -> CalibrationBatches:
    """Take images of a data set of the model config, evenly spread over it.

    Args:
        model_cfg: A model config of mmdet, mmseg or mmpretrain.
        deploy_cfg: Its ``calib_config`` says how many images of which split; its ``onnx_config`` the batch.
        preprocess: From an image file to the canvas.

    Raises:
        UserError: The config has no such data set, it cannot be built, or it has no image files.
    """
    options = deploy_cfg.calibration
    paths = image_paths(model_cfg, options.split)
    picked = np.linspace(0, len(paths) - 1, min(options.images, len(paths))).round().astype(int)
    return CalibrationBatches([paths[index] for index in picked], preprocess, deploy_cfg.graph.batch_size)


def image_paths(model_cfg: Config, split: str) -> list[str]:
    """Return the image files of a data set, in its order, after its filters.

    Args:
        model_cfg: A model config of mmdet, mmseg or mmpretrain.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        UserError: As :func:`calibration_batches`.
    """
    loader, where = model_cfg.get(f'{split}_dataloader'), f'{model_cfg.filename}: {split}_dataloader'
    if not loader or 'dataset' not in loader:
        raise UserError(f'{where} has no dataset to calibrate on: set calib_config.split to another one')
    init_default_scope(model_cfg.get('default_scope', 'mmengine'))
    definition = ConfigDict({'dataset': copy.deepcopy(loader['dataset'])})
    _without_pipelines(definition)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
            dataset: Any = root.DATASETS.build(definition['dataset'])
            paths = list(_paths(dataset))
    except (OSError, KeyError, ValueError, TypeError) as error:
        cause = str(error).strip().splitlines()
        raise UserError(
            f'{where}: the data set for int8 calibration cannot be read: {type(error).__name__}: '
            f'{cause[0] if cause else ""}; set calib_config.split to another one, or its paths'
        ) from error
    if not paths:
        raise UserError(f'{where} has no images to calibrate int8 on: check its paths and filters')
    return paths


def _without_pipelines(definition: Any) -> None:
    """Only the list of images is wanted: no pipeline needs to be built."""
    if isinstance(definition, dict):
        if 'pipeline' in definition:
            definition['pipeline'] = []
        for value in definition.values():
            _without_pipelines(value)
    elif isinstance(definition, (list, tuple)):
        for value in definition:
            _without_pipelines(value)


def _paths(dataset: Any) -> Iterator[str]:
    """Image files of a data set or of the ones it wraps (mmengine's and mmdet's wrappers), each once."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from _paths(part)
    elif hasattr(dataset, 'dataset'):
        yield from _paths(dataset.dataset)
    else:
        dataset.full_init()
        for index in range(len(dataset)):
            yield str(dataset.get_data_info(index)['img_path'])
