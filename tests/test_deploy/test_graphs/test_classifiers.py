"""Classifiers as graphs, in PyTorch, against mmpretrain's own ``predict``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmtrtvit.apis.model import build_model
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.graphs import UnsupportedModelError
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import CLASSIFIERS, assert_parity, eager, feed, graph_of, images

TRTVIT = {'backbone': dict(models.TRTVIT, out_indices=(3,)), 'head.in_channels': models.TRTVIT_CHANNELS[-1]}
TWINS = {'backbone': dict(models.TWINS, out_indices=(3,))}


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('name', CLASSIFIERS)
def test_scores_are_those_of_mmpretrain(name: str, batch: int) -> None:
    model = models.build(name)
    graph = graph_of(model, 64, 64, batch_size=batch)
    pictures = images(batch, 64, 64)
    found = eager(graph, feed(graph, model, pictures))
    assert_parity(model, graph, found, pictures)
    assert found['scores'].dtype == torch.float32
    assert found['scores'].shape == (batch, 7)
    torch.testing.assert_close(found['scores'].sum(1), torch.ones(batch))
    assert (found['scores'].amax(1) < 0.9999).any()


@pytest.mark.parametrize(
    ('changes', 'options'),
    [
        (TRTVIT, {}),
        (TRTVIT, dict(height=83, width=117)),
        (TWINS, {}),
        ({}, dict(image_dtype='uint8')),
        ({}, dict(height=128, width=96)),
        ({'head.num_classes': 80}, {}),
    ],
)
def test_every_setting_of_a_model(changes: dict[str, Any], options: dict[str, Any]) -> None:
    model = models.build('resnet-classifier', changes)
    graph = graph_of(model, batch_size=2, **options)
    pictures = images(2, *graph.options.shape)
    assert_parity(model, graph, eager(graph, feed(graph, model, pictures)), pictures)


@pytest.mark.parametrize(
    'head',
    [
        dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=7, in_channels=64),
        dict(_delete_=True, type='ConformerHead', num_classes=7, in_channels=[32, 32]),
    ],
)
def test_heads_that_predict_in_their_own_way_are_refused(head: dict[str, Any]) -> None:
    model = models.from_definition('resnet-classifier', models.definition('resnet-classifier', {'head': head}))
    with pytest.raises(UnsupportedModelError, match=f'head {head["type"]} has no deployable graph: heads that predict'):
        graph_of(model)


def test_the_normalisation_that_mmpretrain_keeps_beside_the_model_is_the_models() -> None:
    cfg = Config.fromfile(CONFIG_ROOT / 'trtvit_imagenet.py')
    cfg.model.backbone.update(arch=models.TRTVIT['arch'], head_dim=16)
    cfg.model.head.in_channels = models.TRTVIT_CHANNELS[-1]
    model, _ = build_model(cfg, 'none')
    graph = graph_of(model, 32, 32, image_dtype='uint8')
    assert graph.normalize.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert graph.normalize.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])
    blue = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    blue[..., 0] = 255  # cv2.imread's order; the model takes RGB
    x = graph.normalize(blue)
    assert x[0, :, 0, 0].tolist() == pytest.approx([-2.1179, -2.0357, (255 - 103.53) / 57.375], abs=1e-4)
