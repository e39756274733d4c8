"""A ResNet built from our blocks is mmpretrain's ResNetV1d."""

from __future__ import annotations

import mmpretrain.models  # noqa: F401  registers ResNetV1d
import pytest
import torch
from mmpretrain.registry import MODELS

from mmtrtvit.models import TRTViT

from ..devices import DEVICES
from .common import ALL_STAGES, randomize, relative_error

RESNET50 = dict(channels=(256, 512, 1024, 2048), depths=(3, 4, 6, 3), blocks=('BottleNeck',) * 4)


@pytest.fixture(scope='module')
def pair() -> tuple[torch.nn.Module, TRTViT]:
    torch.manual_seed(0)
    theirs = MODELS.build(dict(type='mmpretrain.ResNetV1d', depth=50, out_indices=ALL_STAGES))
    randomize(theirs)
    ours = TRTViT(RESNET50, out_indices=ALL_STAGES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def set_mode(pair: tuple[torch.nn.Module, TRTViT], training: bool, device: str) -> tuple[torch.nn.Module, TRTViT]:
    for model in pair:
        model.to(device).train(training)  # mmpretrain's ResNet.train() does not return itself
    return pair


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('size', [(31, 31), (64, 64), (112, 137)])
def test_equal_outputs(pair, device: str, size: tuple[int, int]) -> None:
    theirs, ours = set_mode(pair, False, device)
    x = torch.rand(1, 3, *size, device=device)
    with torch.no_grad():
        for expected, got in zip(theirs(x), ours(x), strict=True):
            assert got.shape == expected.shape
            assert relative_error(got, expected) < 1e-6


def test_equal_gradients_and_statistics_in_training(pair) -> None:
    theirs, ours = set_mode(pair, True, 'cpu')
    x = torch.rand(2, 3, 65, 64)
    for model in (theirs, ours):
        model.zero_grad()
        sum(y.square().mean() for y in model(x)).backward()
    for (name, expected), (_, got) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert relative_error(got.grad, expected.grad) < 1e-3, name
    for (name, expected), (_, got) in zip(theirs.named_buffers(), ours.named_buffers(), strict=True):
        assert torch.allclose(got.float(), expected.float(), rtol=1e-5, atol=1e-6), name


def test_same_freezing_as_mmdets_resnet() -> None:
    import mmdet.models  # noqa: F401
    from mmdet.registry import MODELS as MMDET

    for frozen_stages in (-1, 0, 1, 2, 3, 4):
        common = dict(frozen_stages=frozen_stages, norm_eval=True)
        theirs = MMDET.build(dict(type='mmdet.ResNetV1d', depth=50, **common))
        ours = TRTViT(RESNET50, **common)
        for model in (theirs, ours):
            model.train()
        for part in ('stem', 'layer1', 'layer2', 'layer3', 'layer4'):
            a, b = getattr(theirs, part), getattr(ours, part)
            assert {p.requires_grad for p in a.parameters()} == {p.requires_grad for p in b.parameters()}
            assert a.training == b.training
