"""Parameters and GFLOPs of the family, and of TRT-ViT-C inside the detector and the segmentor with published totals.

``pytest tests/test_models/test_complexity.py -s`` prints what is measured.

The published totals (Next-ViT, arXiv 2207.05501, tables 5 and 6) come from mmcv's own counter, which is used here too.
It counts trainable parameters only and a multiply-add as one operation; it counts convolutions (those of frozen stages
as well), Linear layers, norms, ReLU and pooling, but neither functional interpolation nor attention's two matrix
products; mmdet's tool ran the heads on 1000 random proposals and the mask head on the first 100. ResNet-101, counted in
the same way, is the control that this is how they counted: its published Mask R-CNN totals are 63.2 M and 336 GFLOPs.

These are the figures of docs/model.md and the evidence for the reconstruction. What our own tool says of the shipped
configs is tested, among the slow tests, in tests/test_apis/test_flops.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  registers the detectors
import mmseg.models  # noqa: F401  registers the segmentors
import pytest
import torch
import torch.nn as nn
from mmcv.cnn.utils.flops_counter import get_model_complexity_info
from mmdet.registry import MODELS as MMDET
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import get_installed_path
from mmseg.registry import MODELS as MMSEG
from torch.utils.flop_counter import FlopCounterMode

from mmtrtvit.models import TRTViT
from mmtrtvit.models.summary import count

# Our own sketch of the family: parameters in millions, GFLOPs at 224 x 224.
FAMILY = {'a': (19.4, 2.9), 'b': (35.6, 4.1), 'c': (66.0, 5.9), 'd': (103.2, 9.6)}

DOCUMENT = (Path(__file__).parents[2] / 'docs' / 'model.md').read_text(encoding='utf-8')

TRTVIT_C = dict(type='TRTViT', arch='c', out_indices=(0, 1, 2, 3))
RESNET101 = dict(type='ResNet', depth=101, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize('arch', list(FAMILY))
def test_the_family(arch: str) -> None:
    params, gflops = count(arch)
    print(f'\nTRT-ViT-{arch.upper()}: {params:.2f} M, {gflops:.2f} GFLOPs')
    assert (params, gflops) == pytest.approx(FAMILY[arch], rel=0.02)
    assert f'| {params:.2f} | {gflops:.2f} |' in DOCUMENT


def test_count_agrees_with_torch_on_convolutions_and_linear_layers() -> None:
    """An independent count, PyTorch's, which counts multiply and add apart; mmengine's has the norms in addition."""
    with torch.device('meta'):
        backbone, image = TRTViT('a').eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(image)
    operators = (torch.ops.aten.convolution, torch.ops.aten.addmm)
    gflops = sum(counter.get_flop_counts()['Global'][operator] for operator in operators) / 2e9
    assert 0 < count('a')[1] - gflops < 0.02 * gflops


def build(registry: Any, scope: str, base: str, backbone: dict[str, Any], channels: list[int]) -> Any:
    cfg = Config.fromfile(f'{get_installed_path(scope)}/.mim/configs/_base_/models/{base}').model
    cfg.backbone = backbone
    cfg.neck.in_channels = channels
    if 'decode_head' in cfg:
        cfg.pretrained = None
        cfg.decode_head.num_classes = 150  # ADE20K
    with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
        return registry.build(cfg)


class Counted(nn.Module):
    """What the published tools ran, on tensors without storage."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> None:
        model = self.model
        features = model.neck(model.backbone(image))
        if hasattr(model, 'decode_head'):
            model.decode_head(features)
            return
        model.rpn_head(features)
        model.roi_head.bbox_head(torch.empty(1000, 256, 7, 7, device='meta'))
        model.roi_head.mask_head(torch.empty(100, 256, 14, 14, device='meta'))


def totals(model: nn.Module, height: int, width: int) -> tuple[float, float]:
    def image(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return dict(image=torch.empty(1, *shape, device='meta'))

    with torch.no_grad():
        flops, params = get_model_complexity_info(
            Counted(model), (3, height, width), False, as_strings=False, input_constructor=image
        )
    return params / 1e6, flops / 1e9


@pytest.mark.parametrize(
    ('name', 'backbone', 'channels', 'published'),
    [
        ('ResNet-101', RESNET101, [256, 512, 1024, 2048], (63.2, 336)),
        ('TRT-ViT-C', TRTVIT_C, [256, 512, 1024, 1536], (86.3, 294)),
    ],
)
def test_mask_rcnn_at_800x1280(name: str, backbone: dict, channels: list[int], published: tuple[float, float]) -> None:
    """Stem and stage 1 frozen, as both were trained."""
    model = build(MMDET, 'mmdet', 'mask-rcnn_r50_fpn.py', dict(backbone, frozen_stages=1), channels)
    measured = totals(model, 800, 1280)
    print(f'\nMask R-CNN {name}: {measured[0]:.2f} M, {measured[1]:.1f} GFLOPs; published {published}')
    assert measured == pytest.approx(published, rel=0.005 if name == 'ResNet-101' else 0.02)
    assert f'| {measured[0]:.2f} / {published[0]} | {measured[1]:.1f} / {published[1]} |' in DOCUMENT


def test_semantic_fpn_at_512x2048() -> None:
    model = build(MMSEG, 'mmseg', 'fpn_r50.py', TRTVIT_C, [256, 512, 1024, 1536])
    measured = totals(model, 512, 2048)
    print(f'\nSemantic FPN TRT-ViT-C: {measured[0]:.2f} M, {measured[1]:.1f} GFLOPs; published (70.6, 213)')
    assert measured == pytest.approx((70.6, 213), rel=0.02)
    assert f'| {measured[0]:.2f} / 70.6 | {measured[1]:.1f} / 213 |' in DOCUMENT
