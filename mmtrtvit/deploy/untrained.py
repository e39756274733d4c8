"""What a deployment without a checkpoint needs to have anything to compare.

As mmengine initialises a model, its BatchNorms take every layer for one of mean 0 and variance 1, so activations grow
from layer to layer, scores tie by the hundred, and NMS meets chains of boxes as no trained detector makes them; or all
scores stay below the threshold, and a comparison of nothing passes.
"""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmtrtvit.deploy.preprocess import Letterbox

#: Pixels of the pictures that go with one random colour: coarse, as photographs are smooth.
CELL = 32


def without_threshold(model_cfg: Config) -> Config:
    """Return a copy of a model's config that lets detections of every score through.

    Args:
        model_cfg: Of any task; what has no ``score_thr`` stays as it is.
    """
    model_cfg = copy.deepcopy(model_cfg)
    _zero(model_cfg.model.get('test_cfg'))
    return model_cfg


def _zero(test_cfg: Any) -> None:
    if isinstance(test_cfg, dict):
        if 'score_thr' in test_cfg:
            test_cfg['score_thr'] = 0.0
        for value in test_cfg.values():
            _zero(value)


@torch.no_grad()
def settle_norms(model: Any, letterbox: Letterbox, seed: int = 0) -> None:
    """Give the BatchNorms of backbone and neck the statistics of random pictures, as if from training.

    Args:
        model: Any model of mmdet, mmseg or mmpretrain, in eval mode, in which it is left.
        letterbox: The canvas, with float32 images.
        seed: Of the pictures.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    rng, size = np.random.default_rng(seed), (letterbox.width, letterbox.height)
    cells = [max(edge // CELL, 2) for edge in reversed(size)]
    # two, since a map of 1 x 1 has no variance of its own
    colours = [rng.integers(0, 256, (*cells, 3), dtype=np.uint8) for _ in range(2)]
    pictures = [cv2.resize(colour, size, interpolation=cv2.INTER_CUBIC) for colour in colours]
    # Norms alone are in training: torch's update_bn calls model.train(), in which stochastic depth drops blocks and
    # norm_eval keeps the statistics as they are.
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this batch alone
        norm.train()
    model.extract_feat(torch.stack([letterbox(picture).tensor for picture in pictures]))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()  # in training it would be exported with the statistics of each image it sees
