"""The mask head of the graph gives each detection the mask that mmdet's head gives its class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.registry import init_default_scope
from torch import nn

from mmtrtvit.deploy.graphs.mask_head import MaskHead, SelectMasks, spread_pixels

LABELS = torch.tensor([[4, 0, 2, -1], [1, 4, -1, -1]])

# case -> the head's arguments, whether one class is computed
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    'as configured': ({}, True),
    'no convolution': (dict(num_convs=0, in_channels=8), True),
    'with a norm': (dict(norm_cfg=dict(type='BN')), True),
    'class-agnostic': (dict(class_agnostic=True), True),
    'three times the size': (dict(upsample_cfg=dict(type='deconv', scale_factor=3)), True),
    'interpolated': (dict(upsample_cfg=dict(type='nearest', scale_factor=2)), False),
    'in the size of the RoI': (dict(upsample_cfg=dict(type=None)), False),
    'normed weights': (dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20)), False),
}


@pytest.mark.parametrize('case', CASES)
def test_the_mask_of_the_class(case: str) -> None:
    changes, one_class = CASES[case]
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head = FCNMaskHead(**(dict(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=5) | changes)).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    part = MaskHead(head).eval()
    select = SelectMasks(part.one_class or head.class_agnostic)
    assert part.one_class == one_class
    x = torch.randn(8, 8, 5, 7)
    with torch.no_grad():
        masks = head(x).sigmoid().reshape(2, 4, -1, *select(part(x, LABELS), LABELS).shape[2:])
        found = select(part(x, LABELS), LABELS)
    for image, row in LABELS.ge(0).nonzero().tolist():
        channel = 0 if head.class_agnostic else int(LABELS[image, row])
        torch.testing.assert_close(found[image, row], masks[image, row, channel], atol=1e-6, rtol=1e-5)
    assert (found[LABELS < 0] == 0).all()


@pytest.mark.parametrize(('size', 'bias'), [(2, True), (3, False)])
def test_spread_pixels(size: int, bias: bool) -> None:
    """Against the transposed convolution itself, by PyTorch's own shuffle of pixels."""
    torch.manual_seed(0)
    deconv = nn.ConvTranspose2d(6, 4, size, stride=size, bias=bias).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.double)
    torch.testing.assert_close(nn.functional.pixel_shuffle(spread_pixels(deconv)(x), size), deconv(x))
