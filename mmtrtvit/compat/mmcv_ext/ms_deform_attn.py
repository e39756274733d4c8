"""Multi-scale deformable attention (Zhu et al., arXiv 2010.04159), one ``grid_sample`` a level."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.common import compute_dtype


@torch.no_grad()
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sum of bilinear samples of each head's values.

    Args:
        value: ``(B, keys, heads, channels)``, the levels' pixels one after the other.
        value_spatial_shapes: ``(levels, 2)`` as H, W, int64.
        value_level_start_index: ``(levels,)``: each level's first key, int64.
        sampling_locations: ``(B, queries, heads, levels, points, 2)`` as x, y, where 0 and 1 are the map's edges.
        attention_weights: ``(B, queries, heads, levels, points)``.
        im2col_step: Unused; images that mmcv's kernel takes at once.

    Returns:
        ``(B, queries, heads * channels)`` in ``value``'s dtype. A sample outside the map is 0.
    """
    batch, _, heads, channels = value.shape
    dtype = compute_dtype(value)
    output = value.new_zeros((batch, sampling_locations.size(1), heads, channels), dtype=dtype)
    for level, keys, shape in _levels(value_spatial_shapes, value_level_start_index):
        output += _attend(
            value[:, keys].to(dtype),
            shape,
            sampling_locations[:, :, :, level].to(dtype),
            attention_weights[:, :, :, level].to(dtype),
        )
    return output.flatten(2).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add to ``grad_value`` and write ``grad_sampling_loc`` and ``grad_attn_weight``; args as in the forward."""
    dtype = compute_dtype(value)
    grad = grad_output.to(dtype).view(*sampling_locations.shape[:3], -1)
    for level, keys, shape in _levels(value_spatial_shapes, value_level_start_index):
        parts = (value[:, keys], sampling_locations[:, :, :, level], attention_weights[:, :, :, level])
        inputs = [part.detach().to(dtype).requires_grad_() for part in parts]
        with torch.enable_grad():
            output = _attend(inputs[0], shape, inputs[1], inputs[2])
        to_value, to_location, to_weight = torch.autograd.grad(output, inputs, grad)
        pixel = inputs[1].detach() * inputs[1].new_tensor((shape[1], shape[0])) - 0.5
        # a sample exactly one pixel outside has a one-sided derivative, which mmcv's kernel does not take
        outside = (pixel <= -1) | (pixel >= pixel.new_tensor((shape[1], shape[0])))
        with torch.no_grad():
            grad_value[:, keys] += to_value
            grad_sampling_loc[:, :, :, level] = torch.where(outside.any(-1, keepdim=True), 0, to_location)
            grad_attn_weight[:, :, :, level] = to_weight


def _levels(shapes: Tensor, starts: Tensor) -> Iterator[tuple[int, slice, tuple[int, int]]]:
    """Number, keys and (H, W) of each level."""
    for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
        yield level, slice(start, start + height * width), (height, width)


def _attend(value: Tensor, shape: tuple[int, int], locations: Tensor, weights: Tensor) -> Tensor:
    """One level's share of the output, ``(B, queries, heads, channels)``.

    Args:
        value: ``(B, H * W, heads, channels)``.
        shape: H, W.
        locations: ``(B, queries, heads, points, 2)``.
        weights: ``(B, queries, heads, points)``.
    """
    batch, _, heads, channels = value.shape
    planes = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
    grid = 2 * locations.transpose(1, 2).flatten(0, 1) - 1  # (B * heads, queries, points, 2)
    samples = F.grid_sample(planes, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    weighted = samples * weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, channels, queries, points)
    return weighted.sum(-1).view(batch, heads, channels, -1).permute(0, 3, 1, 2)
