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


@pytest.mark.parametrize('given', [{}, {'norm_eval': True}])
def test_frozen_stages_without_norm_eval(given: dict[str, bool]) -> None:
    """mmdet's Swin has the one and not the other; weights that would be fetched are dropped with both."""
    backbone = dict(
        type='Swin', frozen_stages=1, init_cfg=dict(type='Pretrained', checkpoint='https://nowhere/x.pth'), **given
    )
    without_initial_weights(definition := dict(backbone=backbone))
    assert definition['backbone'] == dict(type='Swin', frozen_stages=-1, init_cfg=None) | dict.fromkeys(given, False)


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
