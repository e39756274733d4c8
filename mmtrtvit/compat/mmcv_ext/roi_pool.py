"""RoIPool (Girshick, arXiv 1504.08083) with mmcv's bins.

torchvision's rounds the RoI to whole pixels first; mmcv's keeps its fractions and only rounds each bin outwards.
mmcv has it on CUDA only; here it also runs on CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.common import as_float32, compute_dtype

#: Pixel values held at once, about 64 MB in float32.
_CHUNK = 1 << 24


@torch.no_grad()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the largest pixel of each bin into ``output`` and its number into ``argmax``.

    Args:
        input: Feature map ``(B, C, H, W)``.
        rois: ``(K, 5)`` as index in the batch, x1, y1, x2, y2 in image pixels, the last two inclusive.
        output: ``(K, C, pooled_height, pooled_width)``; 0 for a bin outside the map. The rows of a RoI of
            negative size are left as they are.
        argmax: Shaped as ``output``, int32: ``y * W + x``, the first of equal pixels; -1 for a bin outside
            the map. Left as it is where ``output`` is.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Feature pixels in an image pixel.
    """
    channels, height, width = input.shape[1:]
    if channels == 0 or len(rois) == 0:
        return
    dtype = compute_dtype(input)
    flat = input.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    boxes, scale = rois.to(dtype), as_float32(spatial_scale)
    start, stop = boxes[:, 1:3] * scale, (boxes[:, 3:] + 1) * scale
    x_first, x_last = _edges(start[:, 0], stop[:, 0], pooled_width, width)
    y_first, y_last = _edges(start[:, 1], stop[:, 1], pooled_height, height)
    legal = ((stop - start) > 0).all(1).nonzero()[:, 0]
    for (rows, columns), members in _by_extent(y_last - y_first, x_last - x_first, legal):
        step = max(1, _CHUNK // (pooled_height * pooled_width * rows * columns * channels))
        for chunk in members.split(step):
            y, y_inside = _pixels(y_first[chunk], y_last[chunk], rows)
            x, x_inside = _pixels(x_first[chunk], x_last[chunk], columns)
            pixel = (y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten(3)  # (k, bins, bins, pixels)
            inside = (y_inside[:, :, None, :, None] & x_inside[:, None, :, None, :]).flatten(3)
            image = boxes[chunk, 0].long()[:, None, None, None] * (height * width)
            values = torch.where(inside[..., None], flat[image + pixel * inside], -torch.inf)
            best, where = values.max(3)  # (k, bins, bins, C)
            number = pixel[..., None].expand(values.shape).gather(3, where[:, :, :, None])[:, :, :, 0]
            empty = ~inside.any(3)[..., None]
            output[chunk] = torch.where(empty, 0, best).permute(0, 3, 1, 2).to(output.dtype)
            argmax[chunk] = torch.where(empty, -1, number).permute(0, 3, 1, 2).to(argmax.dtype)


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add each bin's gradient to the pixel of ``grad_input``, ``(B, C, H, W)``, that ``argmax`` names."""
    channels, height, width = grad_input.shape[1:]
    channel = torch.arange(channels, device=rois.device)[None, :, None, None]
    plane = rois[:, 0].long()[:, None, None, None] * channels + channel
    target = plane * (height * width) + argmax.clamp(min=0)
    grad = torch.where(argmax >= 0, grad_output.to(compute_dtype(grad_output)), 0)
    total = grad.new_zeros(grad_input.numel()).index_add_(0, target.flatten(), grad.flatten())
    grad_input.add_(total.view(grad_input.shape))


def _edges(start: Tensor, stop: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last of each bin along one axis, ``(K, bins)``, inside the map."""
    number = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    bounds = number * ((stop - start) / bins)[:, None] + start[:, None]
    first, last = bounds[:, :-1].floor(), bounds[:, 1:].ceil()
    return first.clamp(0, size).long(), last.clamp(0, size).long()


def _by_extent(rows: Tensor, columns: Tensor, members: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Members whose largest bins are about equal, as ((rows, columns) to look at, RoI numbers)."""
    if len(members) == 0:
        return
    largest = torch.stack([rows.amax(1), columns.amax(1)], 1)[members].clamp(min=1)
    rounded = 2 ** largest.double().log2().ceil().long()
    extents, group = rounded.unique(dim=0, return_inverse=True)
    for number, (down, across) in enumerate(extents.tolist()):
        yield (down, across), members[group == number]


def _pixels(first: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``(k, bins, count)`` pixels from each bin's first on, and which of them are the bin's."""
    pixel = first[..., None] + torch.arange(count, device=first.device)
    return pixel, pixel < last[..., None]
