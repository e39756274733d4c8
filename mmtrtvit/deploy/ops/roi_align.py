"""RoIAlign over a feature pyramid, static in shape, with one GridSample for all levels.

The levels lie on one canvas: the finest on the left, the others stacked on its right. Every RoI is mapped to the place
of its own level, the samples of its grid are clamped to that level, and one GridSample followed by an average gives
all RoIs; running every RoI on every level, as a graph without data-dependent shapes does otherwise, costs four times
the work. Each level has a border of one repeated pixel: a coordinate rounded out of it by an ulp meets its own value.

Values are those of ``torchvision.ops.roi_align``: a sample more than a pixel outside the level is 0, one within that
pixel is clamped. Coordinates stay float32 (on a canvas of 1000 pixels float16 is half a pixel off), and so does
the sampling.

Letters: B batch, C channels, R RoIs of an image, L levels, s samples along each axis of an output cell.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from mmtrtvit.deploy.ops.constants import constant

RoIAlignForm = Literal['static', 'onnx']


def map_levels(rois: Tensor, num_levels: int, finest_scale: float = 56) -> Tensor:
    """The pyramid level of each RoI: FPN's rule (arXiv 1612.03144, equation 1) as mmdet computes it.

    ``floor(log2(sqrt(area) / finest_scale + 1e-6))`` within 0 .. num_levels - 1, without the logarithm, which backends
    round differently.

    Args:
        rois: ``(..., 4)`` xyxy, pixels.
        num_levels: L.
        finest_scale: RoIs of twice this size and more go to level 1.

    Returns:
        ``(...)`` int64.
    """
    x1, y1, x2, y2 = rois.float().unbind(-1)
    ratio = torch.sqrt((x2 - x1) * (y2 - y1)) / finest_scale + 1e-6
    level = torch.zeros(ratio.shape, dtype=torch.int64, device=rois.device)
    for bound in range(1, num_levels):
        level = level + (ratio >= _log2_reaches(bound)).to(torch.int64)
    return level


def _log2_reaches(exponent: int) -> float:
    """The smallest float32 whose float32 logarithm to base 2 is ``exponent``; rounding gives that to some below it."""
    bound, ulp = 2.0**exponent, 2.0 ** (exponent - 24)
    while _as_float32(math.log2(bound - ulp)) >= exponent:
        bound -= ulp
    return bound


def _as_float32(value: float) -> float:
    """Rounded to float32, without a tensor, which an export would trace."""
    return float(struct.unpack('<f', struct.pack('<f', value))[0])


def roi_align_pyramid(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int | float],
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    finest_scale: float = 56,
    aligned: bool = True,
    form: RoIAlignForm = 'static',
) -> Tensor:
    """RoIAlign of each RoI on its own level of a feature pyramid (arXiv 1703.06870, section 3; levels: FPN's rule).

    Args:
        features: L levels ``(B, C, H_l, W_l)``, the finest first.
        rois: ``(B, R, 4)`` xyxy, pixels of the network's input.
        strides: Pixels of the input to one of each level.
        output_size: Cells (rows, columns) of the output, or one number for both.
        sampling_ratio: s; 0 is adaptive, which only the ``onnx`` form can write down.
        finest_scale: See ``map_levels``.
        aligned: Whether pixel centres are at 0.5 (detectron2, mmdet) or at 0.
        form: ``static``: the canvas; ``onnx``: ONNX's RoiAlign on every level, each RoI taking its own level's result.

    Returns:
        ``(B, R, C, rows, columns)`` in the type of the features.

    Raises:
        ValueError: If levels and strides do not match, or the form cannot do what is asked for.
    """
    if form not in get_args(RoIAlignForm):
        raise ValueError(f'roi_align_pyramid: form={form!r} is not one of {", ".join(get_args(RoIAlignForm))}')
    if len(features) != len(strides) or not features:
        raise ValueError(f'roi_align_pyramid: {len(features)} levels and {len(strides)} strides')
    if form == 'static' and sampling_ratio < 1:
        raise ValueError(
            f'roi_align_pyramid: sampling_ratio={sampling_ratio} is adaptive: the number of samples depends on the '
            'RoI, which has no static form. Train with sampling_ratio=2 (bbox_roi_extractor.roi_layer), or deploy with '
            "form='onnx'"
        )
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    rois = rois.float()
    levels = map_levels(rois, len(features), finest_scale)
    if form == 'onnx':
        return _align_every_level(features, rois, levels, strides, (rows, columns), sampling_ratio, aligned)
    canvas, places = _canvas([feature.float() for feature in features])
    # scale, height, width, top, left of each level: (L, 5), and of each RoI's level: (B, R, 5)
    numbers = [number for stride, place in zip(strides, places, strict=True) for number in (1.0 / stride, *place)]
    table = constant(numbers, canvas).reshape(-1, 5)
    scale, height, width, top, left = table.index_select(0, levels.reshape(-1)).reshape(*levels.shape, 5).unbind(-1)
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois * scale[..., None] - offset).unbind(-1)
    y = _samples(y1, y2, height, rows, sampling_ratio, aligned)
    x = _samples(x1, x2, width, columns, sampling_ratio, aligned)
    grid_y = _canvas_coordinate(y, height, top, canvas.shape[2])
    grid_x = _canvas_coordinate(x, width, left, canvas.shape[3])
    return _sample_canvas(canvas, grid_y, grid_x, sampling_ratio).to(features[0].dtype)


def _canvas(features: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """All levels on one canvas, each with a border of one repeated pixel; (height, width, top, left) of each.

    The repeated pixels of a level also fill what is left of its rectangle, so that each level is padded once.
    """
    sizes = [(feature.shape[2], feature.shape[3]) for feature in features]
    below = [height + 2 for height, _ in sizes[1:]]
    right_width = max((width + 2 for _, width in sizes[1:]), default=0)
    total = max(sizes[0][0] + 2, sum(below))
    canvas = _bordered(features[0], total, sizes[0][1] + 2)
    places = [(*sizes[0], 1, 1)]
    if len(features) == 1:
        return canvas, places
    right = []
    for level, feature in enumerate(features[1:]):
        row = sum(below[:level])
        last = level == len(below) - 1
        right.append(_bordered(feature, total - row if last else below[level], right_width))
        places.append((*sizes[level + 1], row + 1, sizes[0][1] + 3))
    return torch.cat((canvas, torch.cat(right, dim=2)), dim=3), places


def _bordered(feature: Tensor, height: int, width: int) -> Tensor:
    """A level with its edge repeated: one pixel at the top and on the left, the rest below and on the right."""
    return F.pad(feature, (1, width - feature.shape[3] - 1, 1, height - feature.shape[2] - 1), mode='replicate')


def _samples(low: Tensor, high: Tensor, size: Tensor, cells: int, ratio: int, aligned: bool) -> Tensor:
    """Sample positions along one axis, ``(B, R, cells * ratio)`` pixels of the level.

    In torchvision's order of operations: which side of -1 a position falls on must not depend on rounding.
    """
    extent = high - low
    if not aligned:
        extent = extent.clamp(min=1.0)
    cell = (extent / cells)[..., None]
    start = low[..., None] + torch.arange(cells, device=low.device, dtype=low.dtype) * cell
    within = (torch.arange(ratio, device=low.device, dtype=low.dtype) + 0.5) * cell / ratio
    return (start[..., :, None] + within[..., None, :]).flatten(-2)


def _canvas_coordinate(position: Tensor, size: Tensor, origin: Tensor, canvas_size: int) -> Tensor:
    """Positions on a level as ``grid_sample``'s -1 .. 1 (edges aligned); off the canvas where torchvision reads 0."""
    size, origin = size[..., None], origin[..., None]
    inside = (position >= -1.0) & (position <= size)
    clamped = torch.minimum(position.clamp(min=0.0), size - 1.0) + origin
    # divided, not multiplied by a rounded inverse: half the error, 1e-5 pixels of a canvas of 500
    return torch.where(inside, (2.0 * clamped + 1.0) / canvas_size - 1.0, -3.0)


def _sample_canvas(canvas: Tensor, grid_y: Tensor, grid_x: Tensor, ratio: int) -> Tensor:
    """``(B, R, C, rows, columns)`` from the canvas ``(B, C, H, W)`` and positions along each axis.

    ``align_corners=False`` with zeros outside is the one combination for which ONNX Runtime 1.31 has a fast CPU kernel,
    which takes a fifth of the time. The samples of a cell are an axis of their own, averaged by a mean: for a pooling
    of neighbours ONNX Runtime reorders the whole tensor before and after.
    """
    batch, rois = grid_y.shape[:2]
    channels = canvas.shape[1]
    grid_y = grid_y.reshape(batch, rois, -1, ratio).permute(0, 3, 1, 2)  # (B, s, R, rows)
    grid_x = grid_x.reshape(batch, rois, -1, ratio).permute(0, 3, 1, 2)  # (B, s, R, columns)
    rows, columns = grid_y.shape[3], grid_x.shape[3]
    shape = (batch, ratio, ratio, rois, rows, columns)
    grid = torch.stack(
        (grid_x[:, None, :, :, None, :].expand(shape), grid_y[:, :, None, :, :, None].expand(shape)), dim=-1
    ).reshape(batch, ratio * ratio, rois * rows * columns, 2)
    values = F.grid_sample(canvas, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    values = values.mean(dim=2).reshape(batch, channels, rois, rows, columns)
    return values.permute(0, 2, 1, 3, 4)


def _align_every_level(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    strides: Sequence[int | float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Every RoI on every level by the backend's operator, then the result of its own level."""
    batch, count = rois.shape[:2]
    image = torch.arange(batch, device=rois.device, dtype=rois.dtype)[:, None, None].expand(batch, count, 1)
    flat = torch.cat((image, rois), dim=-1).reshape(batch * count, 5)
    own = levels.reshape(-1, 1, 1, 1)
    result: Tensor | None = None
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        aligned_rois = torchvision.ops.roi_align(
            feature.float(), flat, output_size, 1.0 / stride, sampling_ratio, aligned
        )
        result = aligned_rois if result is None else torch.where(own == level, aligned_rois, result)
    assert result is not None
    return result.reshape(batch, count, *result.shape[1:]).to(features[0].dtype)
