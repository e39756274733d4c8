"""The steps of a pipeline that size images give way to an engine's canvas."""

from __future__ import annotations

from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from mmtrtvit.apis.config import load_config
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.evaluate import adapt_pipeline
from mmtrtvit.deploy.preprocess import Letterbox
from mmtrtvit.deploy.sizing import step_name
from mmtrtvit.errors import UserError


@pytest.mark.parametrize(
    ('library', 'name', 'expected'),
    [
        ('mmtrtvit', 'mask_rcnn_trtvit.py', ['LoadImageFromFile', 'LetterboxResize', 'LoadAnnotations',
                                             'PackDetInputs']),
        ('mmtrtvit', 'semantic_fpn_trtvit.py', ['LoadImageFromFile', 'LetterboxResize', 'LoadAnnotations',
                                                'PackSegInputs']),
        ('mmtrtvit', 'trtvit_imagenet.py', ['LoadImageFromFile', 'LetterboxResize', 'PackInputs']),
        ('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', ['LoadImageFromFile', 'LetterboxResize',
                                                            'LoadAnnotations', 'PackDetInputs']),
    ],
)  # fmt: skip
def test_pipelines_are_sized_by_the_canvas_alone(library: str, name: str, expected: list[str]) -> None:
    root = CONFIG_ROOT if library == 'mmtrtvit' else Path(mmdet.__file__).parent / '.mim/configs'
    cfg = Config.fromfile(root / name)
    mode = {'mode': 'crop', 'short_edge': 128} if 'imagenet' in name else {}
    adapt_pipeline(cfg, Letterbox(96, 128, **mode))
    assert [step_name(step) for step in cfg.test_dataloader.dataset.pipeline] == expected


def test_augmentation_at_test_time_has_no_place() -> None:
    cfg = load_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    with pytest.raises(UserError, match='pipeline augments at test time, for which an engine has no place'):
        adapt_pipeline(cfg, Letterbox(96, 128))


def test_a_classifier_keeps_the_steps_that_give_the_canvas() -> None:
    cfg = Config.fromfile(CONFIG_ROOT / 'trtvit_imagenet.py')
    before = [step_name(step) for step in cfg.test_dataloader.dataset.pipeline]
    adapt_pipeline(cfg, Letterbox(224, 224, mode='crop', short_edge=256))
    assert [step_name(step) for step in cfg.test_dataloader.dataset.pipeline] == before
