"""The peers written here: published totals, any image size, gradients, and the same result from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from torch.utils.flop_counter import FlopCounterMode

from mmtrtvit.models import AnySizeEfficientFormer, CSWin, CvT, TimmBackbone, VanillaNet
from tests.test_models.common import randomize

CLASSES = 1000


def small_cswin() -> CSWin:
    return CSWin(
        dict(channels=(8, 16, 16, 32), depths=(1, 1, 1, 1), heads=(2, 2, 2, 4)),
        out_indices=(0, 1, 2, 3), drop_path_rate=0.1,
    )  # fmt: skip


def small_efficientformer() -> AnySizeEfficientFormer:
    return AnySizeEfficientFormer(
        dict(channels=(8, 16, 16, 32), depths=(1, 1, 1, 2), attention=1),
        out_indices=(0, 1, 2, 3), drop_path_rate=0.1,
    )  # fmt: skip


def small_vanillanet() -> VanillaNet:
    arch = dict(stem=8, channels=(8, 16, 16, 32, 32), strides=(1, 2, 2, 1, 2))
    return VanillaNet(arch, out_indices=(0, 1, 2, 3))


def small_cvt() -> CvT:
    return CvT(dict(channels=(8, 16, 24), depths=(1, 1, 2), heads=(1, 2, 3)), drop_path_rate=0.1)


#: Small versions, every kind of block in each.
SMALL: dict[str, Callable[[], BaseModule]] = {
    'cswin': small_cswin,
    'efficientformer': small_efficientformer,
    'vanillanet': small_vanillanet,
    'cvt': small_cvt,
}
#: Those that return four maps.
DENSE = [name for name in SMALL if name != 'cvt']

#: name -> backbone, published parameters in millions, published GFLOPs, tolerance of the parameters, source.
#: Both totals include a classifier of 1000 classes and both products of attention. CSWin-T has 22.3 M, which the
#: paper's table gives as 23 M and PaddleClas's as 22 M.
PUBLISHED: dict[str, tuple[Callable[[], BaseModule], float, float, float]] = {
    'CSWin-T, arXiv 2107.00652': (lambda: CSWin('tiny'), 23.0, 4.3, 0.035),
    'CSWin-S, arXiv 2107.00652': (lambda: CSWin('small'), 35.0, 6.9, 0.02),
    'VanillaNet-9, arXiv 2305.12972': (lambda: VanillaNet('9'), 41.4, 8.6, 0.01),
    'VanillaNet-10, arXiv 2305.12972': (lambda: VanillaNet('10'), 45.7, 9.4, 0.01),
    'CvT-13, arXiv 2103.15808': (lambda: CvT('13'), 20.0, 4.5, 0.02),
    'CvT-21, arXiv 2103.15808': (lambda: CvT('21'), 32.0, 7.1, 0.02),
    "Next-ViT-S, the authors' README": (lambda: TimmBackbone('nextvit_small'), 31.7, 5.8, 0.02),
    "Next-ViT-B, the authors' README": (lambda: TimmBackbone('nextvit_base'), 44.8, 8.3, 0.02),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    build, params, gflops, tolerance = PUBLISHED[name]
    if 'Next-ViT' in name:
        pytest.importorskip('timm', reason='timm is not installed (extra benchmark)')
    with torch.device('meta'):
        backbone, image = build().eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = backbone(image)[-1].shape[1]
    head = (features + 1) * CLASSES
    got = (sum(parameter.numel() for parameter in backbone.parameters()) + head) / 1e6
    assert got == pytest.approx(params, rel=tolerance)
    # torch counts a multiply-add as two
    assert (counter.get_total_flops() / 2 + head) / 1e9 == pytest.approx(gflops, rel=0.02)


@pytest.mark.parametrize('name', DENSE)
@pytest.mark.parametrize('size', [(64, 64), (75, 101), (33, 160)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = SMALL[name]().eval()
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, *size))
    assert tuple(x.shape[1] for x in maps) == backbone.out_channels
    for stride, x in zip((4, 8, 16, 32), maps, strict=True):
        for side, cells in zip(size, x.shape[-2:], strict=True):
            assert side // stride <= cells <= -(-side // stride)
        assert torch.isfinite(x).all()


@pytest.mark.parametrize('name', SMALL)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    backbone = SMALL[name]()
    backbone.init_weights()
    backbone.train()
    sum(x.square().mean() for x in backbone(torch.rand(2, 3, 96, 96))).backward()
    missing = [key for key, value in backbone.named_parameters() if value.grad is None]
    assert missing == []
    assert all(value.grad.isfinite().all() for value in backbone.parameters())


@pytest.mark.parametrize('name', DENSE)
def test_indices_choose_among_the_maps(name: str) -> None:
    torch.manual_seed(0)
    backbone = randomized(name)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        every = backbone(image)
        backbone.out_indices = (1, 3)
        some = backbone(image)
    assert len(some) == 2
    torch.testing.assert_close(some[0], every[1])
    torch.testing.assert_close(some[1], every[3])
    with pytest.raises(ValueError, match=r'out_indices=\(0, 9\) is not one or some of the stages 0 to'):
        type(backbone)(out_indices=(0, 9))


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name == 'vanillanet' else pytest.mark.slow) for name in SMALL]
)
def test_the_exported_graph_computes_the_same(name: str, tmp_path: Path) -> None:
    """75 x 101 leaves every stage with odd sides, so that padding of each kind is in the graph."""
    pytest.importorskip('onnxscript', reason='onnxscript is not installed (extra deploy)')
    runtime = pytest.importorskip('onnxruntime', reason='ONNX Runtime is not installed (extra deploy)')
    backbone = randomized(name)
    image = torch.rand(1, 3, 75, 101)
    file = tmp_path / f'{name}.onnx'
    torch.onnx.export(backbone, (image,), str(file), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    got = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        for expected, found in zip(backbone(image), got, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def randomized(name: str) -> BaseModule:
    torch.manual_seed(0)
    backbone = SMALL[name]().eval()
    randomize(backbone)
    return backbone


@pytest.mark.parametrize('size', [(64, 64), (75, 101)])
def test_cvt_returns_the_class_token_of_any_image(size: tuple[int, int]) -> None:
    backbone = randomized('cvt')
    with torch.no_grad():
        (token,) = backbone(torch.rand(2, 3, *size))
    assert token.shape == (2, 24)
    assert torch.isfinite(token).all()
