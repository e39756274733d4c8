"""A model alone, as the deployment tools and the benchmark build it."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from mmengine.logging import MMLogger

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.flops import complexity
from mmtrtvit.apis.model import build_model, without_initial_weights


@pytest.mark.parametrize('frozen', [{}, dict(frozen_stages=0), dict(frozen_stages=1, norm_eval=True)])
def test_weights_that_would_be_fetched_are_dropped(frozen: dict[str, int]) -> None:
    """And nothing else: each backbone has other values that freeze nothing, mmdet's EfficientNet 0."""
    fetched = dict(type='Pretrained', checkpoint='https://nowhere/x.pth')
    backbone = dict(type='Swin', init_cfg=fetched, **frozen)
    definition = dict(backbone=backbone.copy(), pretrained='x.pth', neck=[dict(init_cfg=fetched)])
    without_initial_weights(definition)
    assert definition == dict(backbone=backbone | dict(init_cfg=None), pretrained=None, neck=[dict(init_cfg=None)])


def test_a_backbone_that_refuses_to_freeze_less_than_nothing() -> None:
    model, _ = build_model(load_config('mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco'), 'none')
    assert model.backbone.frozen_stages == 0


def test_building_says_nothing() -> None:
    """Into a table or a pipe belongs no line about augmentation in training, which mmpretrain's classifiers log."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        cfg = load_config('trtvit/trtvit-a_imagenet')
        model, _ = build_model(cfg, 'none')
        complexity(cfg, (32, 32))
        assert logger.level == logging.INFO
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert said.getvalue() == ''
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
