"""Overlaps of axis-aligned boxes."""

from __future__ import annotations

import torch
from torch import Tensor

#: mmcv's numbers of the two kinds of overlap.
IOU, IOF = 0, 1


def overlaps(boxes1: Tensor, boxes2: Tensor, mode: int = IOU, aligned: bool = False, offset: int = 0) -> Tensor:
    """Intersection over union, or over the first box (``iof``), in mmcv's order of operations.

    Args:
        boxes1: ``(M, 4)`` as x1, y1, x2, y2, pixels.
        boxes2: ``(N, 4)``; with ``aligned``, N equals M.
        mode: :data:`IOU` or :data:`IOF`.
        aligned: One value for each pair of rows instead of all pairs.
        offset: 0, or 1 for boxes whose far edge belongs to them (width is x2 - x1 + 1).

    Returns:
        ``(M, N)``, or ``(M,)`` with ``aligned``. Two boxes without area give 0 / 0 = NaN, as mmcv does.
    """
    area1 = (boxes1[:, 2] - boxes1[:, 0] + offset) * (boxes1[:, 3] - boxes1[:, 1] + offset)
    area2 = (boxes2[:, 2] - boxes2[:, 0] + offset) * (boxes2[:, 3] - boxes2[:, 1] + offset)
    if not aligned:
        boxes1, area1 = boxes1[:, None], area1[:, None]
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    size = (bottom_right - top_left + offset).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    base = area1 + area2 - intersection if mode == IOU else area1
    if base.is_cuda:  # only mmcv's CUDA kernel has this floor
        base = base.clamp(min=offset)
    return intersection / base


@torch.no_grad()
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write :func:`overlaps` of the boxes into ``ious``."""
    ious.copy_(overlaps(bboxes1, bboxes2, mode, aligned, offset))
