"""RoIAlign in plain PyTorch: what torchvision's kernels lack, ``max`` and a deterministic gradient of ``avg``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Sampled values held at once, about 64 MB in float32.
_CHUNK = 1 << 24


def max_forward(
    features: Tensor, rois: Tensor, bins: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Best sample of each bin and where it lies.

    Args:
        features: ``(B, C, H, W)``, contiguous.
        rois: ``(K, 5)``; see :func:`~mmtrtvit.compat.mmcv_ext.roi_align.roi_align_forward`.
        bins: Rows and columns of bins.
        scale: Feature pixels in an image pixel.
        sampling_ratio: Samples of a bin in each direction, 0 for as many as it has pixels.
        aligned: As in mmcv.

    Returns:
        Values, rows and columns, each ``(K, C, *bins)``. A sample outside the map is 0; the first of equal
        samples, row by row, is the best; a bin without any has mmcv's lowest value and the place (-1, -1).
    """
    channels = features.size(1)
    # mmcv starts its search from -10000 on CPU and from the lowest float on CUDA
    lowest = -10000.0 if features.device.type == 'cpu' else torch.finfo(torch.float32).min
    shape = (len(rois), channels, *bins)
    value, row, column = (features.new_full(shape, fill) for fill in (lowest, -1.0, -1.0))
    start, size = _geometry(rois, scale, aligned)
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    for grid, members in _by_grid(size, bins, sampling_ratio):
        if grid[0] * grid[1] == 0:
            continue
        for chunk in _chunks(members, bins, grid, channels):
            y = _positions(start[chunk, 1], size[chunk, 1], bins[0], grid[0])
            x = _positions(start[chunk, 0], size[chunk, 0], bins[1], grid[1])
            samples, y, x = _sample(flat, rois[chunk, 0].long(), y, x, (features.size(2), features.size(3)))
            best, where = samples.max(3)  # (k, rows, columns, C)
            found = best > lowest
            for result, candidate, default in (
                (value, best, lowest),
                (row, y.gather(3, where), -1.0),
                (column, x.gather(3, where), -1.0),
            ):
                result[chunk] = torch.where(found, candidate, default).permute(0, 3, 1, 2)
    return value, row, column


def max_backward(grad: Tensor, rois: Tensor, row: Tensor, column: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the feature map: each bin's goes to the four pixels around its best sample.

    Args:
        grad: ``(K, C, bins, bins)``.
        rois: ``(K, 5)``.
        row: From :func:`max_forward`. mmcv takes -1 for "no sample", even where a sample lies exactly there.
        column: From :func:`max_forward`.
        shape: ``(B, C, H, W)``.
    """
    height, width = shape[2:]
    y_low, y_high, y_part, y_inside = _neighbours(row, height)
    x_low, x_high, x_part, x_inside = _neighbours(column, width)
    grad = torch.where(y_inside & x_inside & (row != -1), grad, 0)
    channel = torch.arange(shape[1], device=grad.device)[None, :, None, None]
    plane = (rois[:, 0].long()[:, None, None, None] * shape[1] + channel) * (height * width)
    result = grad.new_zeros(shape.numel())
    for y, y_weight in ((y_low, 1 - y_part), (y_high, y_part)):
        for x, x_weight in ((x_low, 1 - x_part), (x_high, x_part)):
            result.index_add_(0, (plane + y * width + x).flatten(), (grad * (y_weight * x_weight)).flatten())
    return result.view(shape)


def avg_backward(
    grad: Tensor, rois: Tensor, shape: torch.Size, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Gradient of the feature map for ``avg``: each bin's, shared among the pixels around all of its samples.

    Args:
        grad: ``(K, C, *bins)``.
        rois: ``(K, 5)``.
        shape: ``(B, C, H, W)``.
        scale: Feature pixels in an image pixel.
        sampling_ratio: As in :func:`max_forward`.
        aligned: As in mmcv.
    """
    bins = (grad.size(2), grad.size(3))
    images, channels, height, width = shape
    start, size = _geometry(rois, scale, aligned)
    result = grad.new_zeros((images * height * width, channels))
    for grid, members in _by_grid(size, bins, sampling_ratio):
        if grid[0] * grid[1] == 0:
            continue
        for chunk in _chunks(members, bins, grid, channels):
            share = grad[chunk].permute(0, 2, 3, 1)[:, :, :, None, None] / (grid[0] * grid[1])
            y = _positions(start[chunk, 1], size[chunk, 1], bins[0], grid[0])
            x = _positions(start[chunk, 0], size[chunk, 0], bins[1], grid[1])
            for pixel, weight in _corners(rois[chunk, 0].long(), y, x, (height, width)):
                result.index_add_(0, pixel.flatten(), (share * weight[..., None]).flatten(0, 4))
    return result.view(images, height, width, channels).permute(0, 3, 1, 2)


def _geometry(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """First corners and sizes as x, y in feature pixels, each ``(K, 2)``."""
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return start, size if aligned else size.clamp(min=1)


def _by_grid(size: Tensor, bins: tuple[int, int], sampling_ratio: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """RoIs with equally many samples in a bin, as ((rows, columns) of samples, RoI numbers)."""
    if sampling_ratio > 0:
        yield (sampling_ratio, sampling_ratio), torch.arange(len(size), device=size.device)
        return
    pooled = torch.tensor([bins[1], bins[0]], device=size.device)
    counts, member = (size / pooled).ceil().clamp(min=0).long().unique(dim=0, return_inverse=True)
    for number, (columns, rows) in enumerate(counts.tolist()):
        yield (rows, columns), (member == number).nonzero()[:, 0]


def _chunks(members: Tensor, bins: tuple[int, int], grid: tuple[int, int], channels: int) -> tuple[Tensor, ...]:
    """RoIs to look at together."""
    return members.split(max(1, _CHUNK // (bins[0] * bins[1] * grid[0] * grid[1] * max(1, channels))))


def _positions(start: Tensor, size: Tensor, bins: int, samples: int) -> Tensor:
    """Sampled coordinates ``(k, bins, samples)`` along one axis, in mmcv's order of operations."""
    bin_size = (size / bins)[:, None, None]
    in_bin = torch.arange(samples, device=size.device, dtype=size.dtype) + 0.5
    first = start[:, None, None] + torch.arange(bins, device=size.device, dtype=size.dtype)[:, None] * bin_size
    return first + in_bin * bin_size / samples


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels below and above a coordinate, the upper one's weight, and whether the map reaches there."""
    inside = (position >= -1) & (position <= size)
    position = torch.where(inside, position, 0).clamp(min=0)
    low = position.long()
    at_edge = low >= size - 1
    low = torch.where(at_edge, size - 1, low)
    return low, torch.where(at_edge, low, low + 1), torch.where(at_edge, 0, position - low), inside


def _corners(image: Tensor, y: Tensor, x: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each sample of the grid y x and their weights, ``(k, rows, columns, down, across)``.

    Args:
        image: ``(k,)`` numbers in the batch.
        y: ``(k, rows, down)``, the samples of each row of bins.
        x: ``(k, columns, across)``.
        size: H, W.

    Yields:
        Numbers of pixels of the whole batch, and weights, 0 where the map does not reach.
    """
    y_low, y_high, y_part, y_inside = (part[:, :, None, :, None] for part in _neighbours(y, size[0]))
    x_low, x_high, x_part, x_inside = (part[:, None, :, None, :] for part in _neighbours(x, size[1]))
    base = image[:, None, None, None, None] * (size[0] * size[1])
    for row, row_weight in ((y_low, 1 - y_part), (y_high, y_part)):
        for column, column_weight in ((x_low, 1 - x_part), (x_high, x_part)):
            yield base + row * size[1] + column, row_weight * column_weight * (y_inside & x_inside)


def _sample(flat: Tensor, image: Tensor, y: Tensor, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Bilinear samples ``(k, rows, columns, samples, C)`` of the grid y x, and each sample's coordinates.

    Args:
        flat: Pixels ``(B * H * W, C)``.
        image: As in :func:`_corners`, as are y, x and size.
        y: Rows.
        x: Columns.
        size: H, W.
    """
    samples = flat.new_zeros(())
    for pixel, weight in _corners(image, y, x, size):
        samples = samples + weight[..., None] * flat[pixel]
    shape = samples.shape[:-1]  # (k, rows, columns, down, across)
    y, x = y[:, :, None, :, None].expand(shape), x[:, None, :, None, :].expand(shape)
    return samples.flatten(3, 4), y.flatten(3), x.flatten(3)
