"""Boxes as plain tensors: decoding, the best k of many, and picking rows.

Everything here is static in shape, batch first, and exports through ``torch.onnx.export(dynamo=True)``. Coordinates are
computed in float32 whatever comes in: float16 has half a pixel of rounding above 1024 pixels.

Letters: B batch, N candidates, C classes, K chosen candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmtrtvit.deploy.ops.constants import constant

# TensorRT's ITopKLayer takes no more; the other backends could, but then one model would have two meanings.
MAX_TOP_K = 3840


def check_top_k(k: int) -> None:
    """Refuse a k that TensorRT's TopK does not take.

    Raises:
        ValueError: If k is not within 1 .. 3840.
    """
    if not isinstance(k, int) or not 1 <= k <= MAX_TOP_K:
        raise ValueError(
            f'top_k: k={k!r} is not within 1 .. {MAX_TOP_K}, which is all that TensorRT sorts; '
            'lower nms_pre or pre_top_k in the deploy config'
        )


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row, largest first; equal values in the order of their index.

    The order of equal values is what ONNX defines for TopK. Eager ``torch.topk`` leaves it open, so outside of an
    export a stable sort does the work: both sides then choose the same candidates.

    Args:
        values: ``(B, N)``, no NaN.
        k: How many, 1 .. 3840; clipped to N.

    Returns:
        The values ``(B, K)`` and their indices ``(B, K)`` int64, K = min(k, N).

    Raises:
        ValueError: If k is out of range.
    """
    check_top_k(k)
    k = min(k, values.shape[-1])
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        best = torch.topk(values, k, dim=-1, largest=True, sorted=True)
        return best.values, best.indices
    ordered, index = torch.sort(values, dim=-1, descending=True, stable=True)
    return ordered[..., :k], index[..., :k]


def top_k_classes(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k best (anchor, class) pairs of each image, without sorting all N * C of them.

    First the k anchors with the best class score, put back into ascending order, then the k best of their k * C pairs.
    That is the top k of all N * C pairs, ties included. Suppose that pair (a, c) of score v is one of those and anchor
    a was not chosen. Then k other anchors were, each with a best score above v, or equal to v at a lower index. Each
    of them holds a pair that comes before (a, c), so k pairs come before it, and it is not one of the first k.

    Args:
        scores: ``(B, N, C)``, no NaN.
        k: How many pairs, 1 .. 3840; clipped to N * C.

    Returns:
        Values, anchor indices and class indices, each ``(B, K)``, the best first; ties by anchor, then by class.

    Raises:
        ValueError: If k is out of range.
    """
    batch, anchors, classes = scores.shape
    check_top_k(k)
    if k < anchors:
        chosen = top_k(scores.amax(dim=-1), k)[1]
        # ascending, as a TopK of the negated index: float32 holds every index below 2 ** 24
        ascending = (-top_k(-chosen.to(torch.float32), k)[0]).to(torch.int64)
        scores = gather_rows(scores, ascending)
    else:
        ascending = torch.arange(anchors, device=scores.device).expand(batch, anchors)
    values, flat = top_k(scores.reshape(batch, -1), k)
    anchor = torch.gather(ascending, 1, torch.div(flat, classes, rounding_mode='floor'))
    return values, anchor, flat % classes


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x`` by index, image by image.

    Args:
        x: ``(B, N, ...)``.
        index: ``(B, K)`` int64, 0 .. N - 1.

    Returns:
        ``(B, K, ...)``.
    """
    batch, rows = x.shape[:2]
    # One Gather of whole rows: a GatherElements would need the index repeated for each number of a row.
    start = torch.arange(batch, device=index.device, dtype=index.dtype)[:, None] * rows
    flat = x.reshape(batch * rows, *x.shape[2:])
    return flat.index_select(0, (index + start).reshape(-1)).reshape(batch, index.shape[1], *x.shape[2:])


def clip_boxes(boxes: Tensor, max_shape: Sequence[int | float] | None) -> Tensor:
    """Boxes ``(..., 4)`` as xyxy, clipped to an image of ``max_shape`` = (height, width) pixels; None leaves them."""
    if max_shape is None:
        return boxes
    height, width = float(max_shape[0]), float(max_shape[1])
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        (x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)), dim=-1
    )


def decode_deltas(
    anchors: Tensor,
    deltas: Tensor,
    means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_shape: Sequence[int | float] | None = None,
    wh_ratio_clip: float = 16 / 1000,
    add_ctr_clamp: bool = False,
    ctr_clamp: float = 32,
) -> Tensor:
    """Boxes from anchors and (dx, dy, dw, dh): R-CNN's coding (arXiv 1311.2524, appendix C), as mmdet's ``delta2bbox``.

    Args:
        anchors: ``(N, 4)`` or ``(B, N, 4)`` xyxy, pixels.
        deltas: ``(B, N, 4)``.
        means: Subtracted when the model was trained.
        stds: Divided by when the model was trained.
        max_shape: (height, width) in pixels to clip to; None: no clipping.
        wh_ratio_clip: The largest shrinkage of width or height; 1 / it is the largest growth.
        add_ctr_clamp: Also clamp the shift of the centre (YOLOF).
        ctr_clamp: By how many pixels the centre may move then.

    Returns:
        ``(B, N, 4)`` float32 xyxy, pixels.
    """
    anchors, deltas = anchors.float(), deltas.float()
    deltas = deltas * constant(stds, deltas) + constant(means, deltas)
    centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5
    size = anchors[..., 2:] - anchors[..., :2]
    shift, growth = size * deltas[..., :2], deltas[..., 2:]
    limit = abs(math.log(wh_ratio_clip))
    if add_ctr_clamp:
        shift = shift.clamp(-float(ctr_clamp), float(ctr_clamp))
        growth = growth.clamp(max=limit)
    else:
        growth = growth.clamp(-limit, limit)
    centre = centre + shift
    half = size * growth.exp() * 0.5
    return clip_boxes(torch.cat((centre - half, centre + half), dim=-1), max_shape)


def decode_distances(points: Tensor, distances: Tensor, max_shape: Sequence[int | float] | None = None) -> Tensor:
    """Boxes from points and their distances to left, top, right and bottom, as mmdet's ``distance2bbox``.

    Args:
        points: ``(N, 2)`` or ``(B, N, 2)`` x, y, pixels.
        distances: ``(B, N, 4)``, pixels.
        max_shape: (height, width) in pixels to clip to; None: no clipping.

    Returns:
        ``(B, N, 4)`` float32 xyxy, pixels.
    """
    points, distances = points.float(), distances.float()
    boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)
    return clip_boxes(boxes, max_shape)
