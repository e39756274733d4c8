"""Segmentors as graphs, in PyTorch, against mmseg's own ``predict``."""

from __future__ import annotations

import pytest
import torch

from mmtrtvit.deploy.graphs import UnsupportedModelError
from mmtrtvit.deploy.parity import library_outputs
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import SEGMENTORS, assert_parity, eager, feed, graph_of, images

CLASSES = {name: 2 if name == 'binary' else 3 for name in SEGMENTORS}


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('name', SEGMENTORS)
def test_label_maps_are_those_of_mmseg(name: str, batch: int) -> None:
    model = models.build(name)
    graph = graph_of(model, batch_size=batch)
    pictures = images(batch)
    found = eager(graph, feed(graph, model, pictures))
    assert_parity(model, graph, found, pictures)
    assert found['label_map'].dtype == torch.int64
    assert found['label_map'].shape == (batch, 96, 128)
    shares = torch.bincount(found['label_map'].flatten(), minlength=CLASSES[name]) / found['label_map'].numel()
    assert ((shares > 0.001) & (shares < 0.98)).sum() >= 2  # the models are made to see several classes


@pytest.mark.parametrize('name', SEGMENTORS)
def test_logits_are_those_of_mmseg(name: str) -> None:
    model = models.build(name)
    graph = graph_of(model, batch_size=2, segmentation_output='logits')
    pictures = images(2)
    found = eager(graph, feed(graph, model, pictures))
    assert_parity(model, graph, found, pictures)
    assert found['logits'].dtype == torch.float32
    assert found['logits'].shape == (2, 1 if name == 'binary' else 3, 96, 128)


@pytest.mark.parametrize(
    ('changes', 'options'),
    [
        ({'decode_head.num_classes': 80}, {}),
        ({'decode_head.align_corners': True}, {}),
        ({}, dict(image_dtype='uint8')),
        ({}, dict(height=128, width=96)),
        ({}, dict(height=83, width=117)),
        ({'backbone': models.TRTVIT, 'decode_head.in_channels': models.TRTVIT_CHANNELS}, {}),
        ({'backbone': models.TWINS}, dict(height=83, width=117)),
        ({'test_cfg': dict(mode='slide', crop_size=(96, 128), stride=(64, 64))}, {}),
    ],
)
def test_every_setting_of_a_model(changes: dict, options: dict) -> None:
    model = models.build('upernet', changes)
    graph = graph_of(model, batch_size=2, **options)
    pictures = images(2, *graph.options.shape)
    assert_parity(model, graph, eager(graph, feed(graph, model, pictures)), pictures)


def test_several_windows_are_refused() -> None:
    model = models.build('fcn', {'test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(42, 42))})
    message = (
        r"test_cfg.mode='slide' with crop_size=\(64, 64\): on a canvas of 96 x 128 mmseg averages several windows, the "
        r'graph computes one. Take a deploy config of 64 x 64, or --cfg-options model.test_cfg.mode=whole'
    )
    with pytest.raises(UnsupportedModelError, match=message):
        graph_of(model)
    graph = graph_of(model, height=64, width=64)
    pictures = images(1, 64, 64)
    assert_parity(model, graph, eager(graph, feed(graph, model, pictures)), pictures)


@pytest.mark.parametrize(
    'head',
    [
        dict(_delete_=True, type='DAHead', in_channels=64, in_index=3, channels=16, pam_channels=8, num_classes=3),
        dict(_delete_=True, type='EncHead', in_channels=[16, 32, 64], in_index=(1, 2, 3), channels=16, num_codes=4,
             num_classes=3),
    ],
)  # fmt: skip
def test_heads_that_predict_in_their_own_way_are_refused(head: dict) -> None:
    cfg = models.definition('fcn', {'decode_head': head})
    with pytest.raises(UnsupportedModelError, match=f'decode head {head["type"]} has no deployable graph: heads that'):
        graph_of(models.from_definition('fcn', cfg))


def test_the_reference_resizes_and_decides_as_mmseg() -> None:
    model = models.build('binary')
    graph = graph_of(model, batch_size=2)
    x = models.normalized(model, images(2))
    expected = torch.stack([sample.pred_sem_seg.data[0] for sample in models.predict(model, x)])
    assert torch.equal(library_outputs(model, graph, x)['label_map'], expected.long())
