"""``tools/test.py --tta`` against separate runs on the images and on their mirror images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine import load as load_file
from mmengine.config import Config

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.model import build_model
from mmtrtvit.apis.test import augment, evaluate
from mmtrtvit.deploy.tools.test import evaluate as evaluate_any
from mmtrtvit.errors import UserError
from tests.tiny import make_classifier, make_detector, make_segmentor

#: The pipeline of testing without what is random in it, and with a mirror if one is asked for.
CONFIG = """
_base_ = [{base!r}]
steps = [step for step in _base_.test_dataloader.dataset.pipeline if step['type'] != 'RandomFlip']
mirror = [dict(type='RandomFlip', prob=1.0)] if {mirrored} else []
test_dataloader = dict(dataset=dict(pipeline=steps[:-1] + mirror + steps[-1:]))
"""
Runs = dict[str, list[Any]]


def runs(make: Callable[[Path], Path], folder: Path, options: list[str]) -> Runs:
    """Predictions on the images, on their mirror images and with augmentation, of one model with random weights."""
    config = make(folder)
    rng = np.random.default_rng(0)
    for file in (folder / 'data').rglob('*.png'):  # nothing that looks the same in a mirror
        if 'masks' not in file.parts:
            image = cv2.imread(str(file))
            cv2.imwrite(str(file), np.clip(image + rng.integers(0, 90, image.shape), 0, 255).astype(np.uint8))
    cfg = Config.fromfile(config)
    torch.save({'state_dict': build_model(cfg, 'none')[0].state_dict()}, folder / 'w.pth')
    found = {}
    for name, words in (('plain', []), ('mirrored', []), ('both', ['--tta'])):
        file = folder / f'{name}.py'
        file.write_text(CONFIG.format(base=str(config), mirrored=name == 'mirrored'))
        out = str(folder / f'{name}.pkl')
        evaluate([str(file), str(folder / 'w.pth'), '--work-dir', str(folder), '--out', out, *words, *options])
        found[name] = load_file(out)
    return found


def test_scores_of_a_classifier_are_averaged(tmp_path: Path) -> None:
    found = runs(make_classifier, tmp_path, [])
    for plain, mirrored, both in zip(found['plain'], found['mirrored'], found['both'], strict=True):
        assert not torch.equal(plain['pred_score'], mirrored['pred_score'])
        mean = (plain['pred_score'] + mirrored['pred_score']) / 2
        assert torch.allclose(both['pred_score'], mean, atol=1e-6)


@pytest.mark.slow
def test_probabilities_of_a_segmentor_are_averaged(tmp_path: Path) -> None:
    """mmseg turns a mirrored prediction back by itself."""
    found = runs(make_segmentor, tmp_path, [])
    differing = 0
    for plain, mirrored, both in zip(found['plain'], found['mirrored'], found['both'], strict=True):
        logits = [side['seg_logits']['data'] for side in (plain, mirrored)]
        differing += not torch.equal(*logits)
        mean = sum(one.softmax(0) for one in logits) / 2
        assert torch.equal(both['pred_sem_seg']['data'][0], mean.argmax(0))
    assert differing


@pytest.mark.slow
def test_boxes_of_a_detector_are_merged(tmp_path: Path) -> None:
    """Each is one of those found on the image or, turned back, on its mirror image; some of the latter are new."""
    found = runs(make_detector, tmp_path, ['--cfg-options', 'model.test_cfg.score_thr=0.0'])
    turned = 0
    for plain, mirrored, both in zip(found['plain'], found['mirrored'], found['both'], strict=True):
        width = plain['ori_shape'][1]
        x1, y1, x2, y2 = mirrored['pred_instances']['bboxes'].unbind(-1)
        sides = [plain['pred_instances']['bboxes'], torch.stack([width - x2, y1, width - x1, y2], -1)]
        merged = both['pred_instances']['bboxes']
        assert len(merged)
        near = [torch.cdist(merged, side, p=torch.inf).min(1).values < 1e-3 for side in sides]
        assert (near[0] | near[1]).all()
        turned += int((near[1] & ~near[0]).sum())
    assert turned


def test_what_cannot_be_augmented_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'--tta: mmdet merges boxes and no masks: .* test_evaluator\.metric=bbox'):
        augment(load_config('mask_rcnn_trtvit'))
    with pytest.raises(UserError, match='--tta: the config is of None'):
        augment(Config({'model': {}}))
    config = make_detector(tmp_path)
    for words in (['x.pth', '--letterbox', '64x64'], ['x.onnx']):
        with pytest.raises(UserError, match='--tta: an engine and its canvas take one image at a time'):
            evaluate_any([str(config), *words, '--tta'])


def test_the_configs_own_augmentation_is_taken() -> None:
    cfg = load_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco')
    augment(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.tta_cfg.nms.iou_threshold == 0.6
    assert cfg.model.module.type == 'RTMDet'
    assert cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline
