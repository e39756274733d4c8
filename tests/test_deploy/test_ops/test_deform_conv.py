"""Deformable convolution in plain tensors against torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtrtvit.deploy.ops.deform_conv import deform_conv2d

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pair,
    stride=pair,
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pair,
    groups=st.sampled_from([1, 2]),
    offset_groups=st.sampled_from([1, 2, 4]),
    use_mask=st.booleans(),
    far=st.sampled_from([0.0, 0.7, 5.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_values_are_torchvisions(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    offset_groups: int,
    use_mask: bool,
    far: float,
    seed: int,
) -> None:
    axes = (size, kernel, stride, pad, dilation)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(*axes, strict=True)]
    if min(out) < 1:
        return
    torch.manual_seed(seed)
    places = offset_groups * kernel[0] * kernel[1]
    x, weight, bias = torch.randn(2, 4, *size), torch.randn(6, 4 // groups, *kernel), torch.randn(6)
    offset = torch.randn(2, 2 * places, *out) * far
    mask = torch.rand(2, places, *out) if use_mask else torch.zeros(2, 1)
    args = (x, weight, offset, mask, bias, *stride, *pad, *dilation, groups, offset_groups, use_mask)
    expected = torch.ops.torchvision.deform_conv2d(*args)
    torch.testing.assert_close(deform_conv2d(*args), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('offset', [-1.0, -0.999, 0.0, 3.999, 4.0])
def test_places_at_the_border(offset: float) -> None:
    """Up to a pixel outside, a sample shares the border's value with zeros."""
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    at = torch.full((1, 2, 1, 1), offset)
    args = (x, weight, at, torch.zeros(1, 1), torch.zeros(1), 4, 4, 0, 0, 1, 1, 1, 1, False)
    torch.testing.assert_close(deform_conv2d(*args), torch.ops.torchvision.deform_conv2d(*args), atol=1e-5, rtol=0)
