"""Tiny models deployed to ONNX Runtime; each made once a process, whoever asks first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmtrtvit.apis.model import build_model
from mmtrtvit.apis.train import train
from mmtrtvit.deploy.tools.deploy import deploy
from tests.tiny import make_classifier, make_detector, make_segmentor

#: Detections of a model that has seen six images once score little.
LOW_SCORES = 'model.test_cfg.score_thr=0.0'

_MADE: dict[str, Tiny] = {}


@dataclass(frozen=True)
class Tiny:
    """Where a deployed tiny model is.

    Attributes:
        config: Its config.
        checkpoint: Its checkpoint.
        engine: The ONNX file with its card.
        images: A folder of its images.
    """

    config: Path
    checkpoint: Path
    engine: Path
    images: Path


def _deploy(folder: Path, config: Path, checkpoint: str, kind: str, images: Path, *options: str) -> Tiny:
    model = folder / 'trained' / checkpoint
    image = sorted(images.rglob('*.png'))[0]
    deploy(
        [
            f'{kind}.py', str(config), str(model), str(image), '--work-dir', str(folder / 'deployed'),
            '--log-level', 'ERROR', '--cfg-options', *options,
        ]
    )  # fmt: skip
    return Tiny(config, model, folder / 'deployed' / 'end2end.onnx', images)


def detector(factory: pytest.TempPathFactory) -> Tiny:
    """RetinaNet for batches of 4 on a canvas of 64 x 96, wider than any of its images; six images, two classes."""
    if 'detector' not in _MADE:
        folder = factory.mktemp('detector')
        config = make_detector(folder)
        train(
            [str(config), '--work-dir', str(folder / 'trained'), '--cfg-options', 'train_cfg.max_epochs=1',
             'randomness.seed=0']
        )  # fmt: skip
        _MADE['detector'] = _deploy(
            folder, config, 'epoch_1.pth', 'detection_onnxruntime_static-320x320', folder / 'data' / 'images',
            'onnx_config.height=64', 'onnx_config.width=96', 'onnx_config.batch_size=4', LOW_SCORES,
        )  # fmt: skip
    return _MADE['detector']


def _random(folder: Path, config: Path) -> str:
    """Write a checkpoint of random weights into ``trained``; returns its name."""
    model, _ = build_model(Config.fromfile(config), 'none')
    (folder / 'trained').mkdir()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, folder / 'trained' / 'random.pth')
    return 'random.pth'


def segmentor(factory: pytest.TempPathFactory) -> Tiny:
    """FCN for batches of 3 on a canvas of 64 x 96 that gives logits; four images, three classes, random weights."""
    if 'segmentor' not in _MADE:
        folder = factory.mktemp('segmentor')
        config = make_segmentor(folder)
        _MADE['segmentor'] = _deploy(
            folder, config, _random(folder, config), 'segmentation_onnxruntime_static-512x512',
            folder / 'data' / 'images', 'onnx_config.height=64', 'onnx_config.width=96', 'onnx_config.batch_size=3',
            'codebase_config.segmentation_output=logits',
        )  # fmt: skip
    return _MADE['segmentor']


def classifier(factory: pytest.TempPathFactory) -> Tiny:
    """A classifier for any batch on a canvas of 32 x 32; six images, three classes, random weights."""
    if 'classifier' not in _MADE:
        folder = factory.mktemp('classifier')
        config = make_classifier(folder)
        _MADE['classifier'] = _deploy(
            folder, config, _random(folder, config), 'classification_onnxruntime_static-224x224',
            folder / 'data' / 'classes', 'onnx_config.height=32', 'onnx_config.width=32',
            'onnx_config.dynamic_batch=True',
        )  # fmt: skip
    return _MADE['classifier']
