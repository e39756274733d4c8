"""Figures of the counter against hand counts and published totals."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmtrtvit.apis import flops
from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.flops import complexity, get_flops

CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=50),
             neck=dict(type='GlobalAveragePooling'),
             head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048))
"""


def test_resnet50() -> None:
    """25.56 M parameters and 4.1 GFLOPs at 224 x 224 (torchvision's table gives 25.6 M and 4.09)."""
    result = complexity(Config.fromstring(CLASSIFIER, '.py'))
    assert result.shape == (224, 224)
    assert result.model.params == 25_557_032
    assert result.backbone is not None
    assert result.model.params - result.backbone.params == 2048 * 1000 + 1000
    # mmengine counts batch norm too, torchvision's 4.09 does not: 11.1 M activations
    assert result.model.flops == pytest.approx(4.11e9, rel=0.01)
    assert result.model.flops - result.backbone.flops == pytest.approx(2048 * 1000, rel=0.1)


def test_cost_grows_with_the_area() -> None:
    cfg = Config.fromstring(CLASSIFIER, '.py')
    small, large = (complexity(cfg, (side, 2 * side)).backbone for side in (64, 128))
    assert small is not None
    assert large is not None
    assert large.flops == 4 * small.flops


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'params', 'gflops'),
    [
        # Next-ViT (arXiv 2207.05501), tables 5 and 6: Mask R-CNN at 800 x 1280, Semantic FPN at 512 x 2048
        ('mask_rcnn_trtvit.py', 86.3, 294),
        ('resnet/mask_rcnn_resnet-101.py', 63.2, 336),
        ('swin/mask_rcnn_swin-t.py', 47.8, 264),
        ('semantic_fpn_trtvit.py', 70.6, 213),
    ],
)
def test_published_totals(config: str, params: float, gflops: float, capsys: pytest.CaptureFixture[str]) -> None:
    """The configs as they are shipped, through the tool and mmengine's counter, as docs/training.md prints them.

    tests/test_models/test_complexity.py counts the backbone in mmdet's and mmseg's own base configs with the counter of
    the publications; it would notice neither a wrong shipped config nor a wrong tool.
    """
    result = get_flops([config])
    assert result.model.params / 1e6 == pytest.approx(params, rel=0.02)
    assert result.model.flops / 1e9 == pytest.approx(gflops, rel=0.02)
    assert f'{result.model.params / 1e6:.2f}' in capsys.readouterr().out


@pytest.mark.parametrize('numbers', [['1', '2', '3'], ['0'], ['-5', '4'], ['x']])
def test_shape(numbers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flops.parse_args(['c.py', '--shape', *numbers])
    assert '--shape' in capsys.readouterr().err


def test_a_part_has_no_model() -> None:
    with pytest.raises(UserError, match='has no model'):
        complexity(Config({'default_scope': 'mmdet'}))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco', 'queryinst/queryinst_r50_fpn_1x_coco'])
def test_proposals_that_are_parameters(name: str) -> None:
    """Sparse R-CNN's region proposal network has no forward; mmdet's own script counts it from ground truth."""
    found = complexity(load_config(f'mmdet::{name}'), (128, 160))
    assert found.backbone is not None
    assert found.model.flops > 2 * found.backbone.flops
