"""RoIAlign on the canvas against torchvision's on each level, with mmdet's rule of levels."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

from mmtrtvit.deploy.ops import map_levels, roi_align_pyramid

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 160, 224


def mmdet_levels(rois: Tensor, num_levels: int, finest_scale: float = 56) -> Tensor:
    extractor = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=7, sampling_ratio=2),
        out_channels=1,
        featmap_strides=list(STRIDES[:num_levels]),
        finest_scale=finest_scale,
    )
    return extractor.map_roi_levels(torch.cat((torch.zeros(len(rois), 1), rois), dim=1), num_levels)


def pyramid(batch: int = 2, channels: int = 3, levels: int = 4, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, -(-HEIGHT // stride), -(-WIDTH // stride), generator=random)
        for stride in STRIDES[:levels]
    ]


def random_rois(count: int, seed: int) -> Tensor:
    """Of all sizes, some of them partly or wholly outside of the image, some empty."""
    random = torch.Generator().manual_seed(seed)
    corner = (torch.rand(count, 2, generator=random) * 1.6 - 0.3) * torch.tensor([WIDTH, HEIGHT])
    size = 10 ** (torch.rand(count, 2, generator=random) * 4 - 1)
    size = size * (torch.rand(count, 1, generator=random) > 0.05)
    return torch.cat((corner, corner + size), dim=-1)


def reference(
    features: list[Tensor], rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool, finest_scale: float = 56
) -> Tensor:
    """Every RoI by torchvision on its own level, one by one image."""
    batch, count = rois.shape[:2]
    result = torch.zeros(batch, count, features[0].shape[1], *size)
    for image in range(batch):
        level_of = mmdet_levels(rois[image], len(features), finest_scale)
        for level, feature in enumerate(features):
            own = (level_of == level).nonzero()[:, 0]
            result[image, own] = torchvision.ops.roi_align(
                feature[image : image + 1], [rois[image, own]], size, 1 / STRIDES[level], ratio, aligned
            )
    return result


NASTY = torch.tensor(
    [
        [0.0, 0, WIDTH, HEIGHT],
        [0, 0, 0, 0],
        [50, 50, 50, 50],
        [WIDTH, HEIGHT, WIDTH, HEIGHT],
        [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT],
        [-1000, -1000, -900, -900],
        [3000, 3000, 3500, 3500],
        [-5000, -5000, 5000, 5000],
        [-1e6, -1e6, 1e6, 1e6],
        [10, 10, 10.001, 150],
        [0, 20, WIDTH, 20.5],
        [-2, -2, 10, 10],  # the first sample lies at -1 exactly: inside
        [-4, -4, -4, -4],
        [-2.001, -2.001, -2.001, -2.001],
        [WIDTH + 2, HEIGHT + 2, WIDTH + 2, HEIGHT + 2],  # at H and W exactly: inside
        [WIDTH + 2.1, HEIGHT + 2.1, WIDTH + 2.1, HEIGHT + 2.1],
        [5, 5, 117, 117],  # 112: the border of levels 0 and 1
        [5, 5, 116.999, 116.999],
    ]
)


@pytest.mark.parametrize('form', ['static', 'onnx'])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [1, 2, 3])
def test_nasty_rois(form: str, aligned: bool, ratio: int) -> None:
    features = pyramid()
    rois = NASTY.expand(2, -1, 4)
    found = roi_align_pyramid(features, rois, STRIDES, (5, 3), ratio, aligned=aligned, form=form)
    assert found.shape == (2, len(NASTY), 3, 5, 3)
    torch.testing.assert_close(found, reference(features, rois, (5, 3), ratio, aligned), rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    levels=st.integers(1, 4),
    batch=st.integers(1, 2),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    ratio=st.integers(1, 3),
    aligned=st.booleans(),
    finest_scale=st.sampled_from([14.0, 56.0, 100.0]),
)
def test_random_rois(
    seed: int, levels: int, batch: int, rows: int, columns: int, ratio: int, aligned: bool, finest_scale: float
) -> None:
    features = pyramid(batch, levels=levels, seed=seed)
    rois = torch.stack([random_rois(20, seed + i) for i in range(batch)])
    found = roi_align_pyramid(features, rois, STRIDES[:levels], (rows, columns), ratio, finest_scale, aligned)
    expected = reference(features, rois, (rows, columns), ratio, aligned, finest_scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_whole_image_of_rois_at_its_real_size() -> None:
    """800x1344, where the canvas is 508 wide: the largest coordinates that are met in practice."""
    torch.manual_seed(0)
    features = [torch.randn(1, 8, -(-800 // stride), 1344 // stride) for stride in STRIDES]
    corner = torch.rand(1, 500, 2) * torch.tensor([1344, 800])
    rois = torch.cat((corner, corner + torch.rand(1, 500, 2) ** 3 * 800), dim=-1)
    for size in (7, 14):
        found = roi_align_pyramid(features, rois, STRIDES, size, 2)
        expected = reference(features, rois, (size, size), 2, True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_levels_are_mmdets_at_their_borders() -> None:
    side = torch.cat([56.0 * 2**level + torch.arange(-200, 201) * 2e-6 * 2**level for level in range(-1, 5)])
    side = torch.cat((side, torch.rand(5000) * 2000, torch.zeros(1)))
    rois = torch.stack((torch.zeros_like(side), torch.zeros_like(side), side, side), dim=-1)
    for num_levels in (1, 2, 3, 4):
        assert torch.equal(map_levels(rois, num_levels), mmdet_levels(rois, num_levels))


def test_half_precision_features_are_sampled_at_float32_coordinates() -> None:
    features = [feature.half() for feature in pyramid()]
    rois = torch.stack([random_rois(40, i) for i in range(2)])
    found = roi_align_pyramid(features, rois, STRIDES, 7, 2)
    assert found.dtype == torch.float16
    expected = reference([feature.float() for feature in features], rois, (7, 7), 2, True)
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_adaptive_sampling_has_an_onnx_form_only() -> None:
    features, rois = pyramid(), NASTY[:5].expand(2, -1, 4)
    with pytest.raises(ValueError, match=r'sampling_ratio=0 is adaptive.*sampling_ratio=2.*form=.onnx'):
        roi_align_pyramid(features, rois, STRIDES, 7, 0)
    found = roi_align_pyramid(features, rois, STRIDES, 7, 0, form='onnx')
    torch.testing.assert_close(found, reference(features, rois, (7, 7), 0, True), rtol=0, atol=1e-5)


def test_levels_and_strides_must_match() -> None:
    with pytest.raises(ValueError, match='4 levels and 3 strides'):
        roi_align_pyramid(pyramid(), NASTY[None], STRIDES[:3], 7, 2)
    with pytest.raises(ValueError, match="form='loop' is not one of static, onnx"):
        roi_align_pyramid(pyramid(), NASTY[None], STRIDES, 7, 2, form='loop')
