"""Masks of detections: the channel of each one's class, and pasting them into the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrtvit.deploy.ops.boxes import gather_rows


def select_class_masks(logits: Tensor, labels: Tensor) -> Tensor:
    """The mask of each detection's own class, as a probability.

    Args:
        logits: ``(B, R, C, h, w)``; C = 1 where the masks know no class.
        labels: ``(B, R)`` int64; -1 (padding) takes class 0.

    Returns:
        ``(B, R, h, w)`` float32 in 0 .. 1.
    """
    batch, rois, classes, height, width = logits.shape
    if classes == 1:
        return logits[:, :, 0].float().sigmoid()
    rows = torch.arange(batch * rois, device=labels.device).reshape(batch, rois) * classes
    flat = logits.reshape(1, batch * rois * classes, height * width)
    index = (rows + labels.clamp(min=0, max=classes - 1)).reshape(1, -1)
    return gather_rows(flat, index).reshape(batch, rois, height, width).float().sigmoid()


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Masks in the size of the image, equal to what mmdet's ``FCNMaskHead`` pastes. Not part of a graph.

    One mask at a time, and of that only the pixels of its box: 100 masks of a 4K image need the result's 830 MB and
    little more.

    Args:
        masks: ``(N, h, w)`` probabilities.
        boxes: ``(N, 4)`` xyxy in pixels of the image asked for.
        height: Of the image, pixels.
        width: Of the image, pixels.
        threshold: A pixel of at least this probability is set. Negative: no threshold, ``probability * 255``.

    Returns:
        ``(N, height, width)``, bool, or uint8 with a negative threshold.

    Raises:
        ValueError: If the shapes do not fit together, a box is not finite or the image is empty.
    """
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f'paste_masks: masks {tuple(masks.shape)} and boxes {tuple(boxes.shape)}; (N, h, w) and (N, 4) go'
        )
    if not torch.isfinite(boxes).all():
        raise ValueError(f'paste_masks: box {boxes[~torch.isfinite(boxes).all(dim=1)][0].tolist()} is not finite')
    if height < 1 or width < 1:
        raise ValueError(f'paste_masks: an image of {height}x{width} pixels has no place for a mask')
    pasted = torch.zeros(
        len(masks), height, width, dtype=torch.bool if threshold >= 0 else torch.uint8, device=masks.device
    )
    boxes = boxes.float()
    for canvas, mask, box, (x1, y1, x2, y2) in zip(pasted, masks.float(), boxes, boxes.tolist(), strict=True):
        left, right = max(math.floor(x1) - 1, 0), min(math.ceil(x2) + 1, width)
        top, bottom = max(math.floor(y1) - 1, 0), min(math.ceil(y2) + 1, height)
        if left >= right or top >= bottom:
            continue
        x = _to_grid(torch.arange(left, right, device=masks.device), box[0], box[2])
        y = _to_grid(torch.arange(top, bottom, device=masks.device), box[1], box[3])
        grid = torch.stack((x[None, :].expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        canvas[top:bottom, left:right] = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
    return pasted


def _to_grid(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Centres of pixels as coordinates of ``grid_sample``, where the box is -1 .. 1."""
    grid = (pixels.to(torch.float32) + 0.5 - low) / (high - low) * 2 - 1
    return torch.where(torch.isinf(grid), torch.zeros_like(grid), grid)
