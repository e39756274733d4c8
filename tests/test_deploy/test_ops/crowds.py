"""Boxes that NMS finds hard, and NMS as torchvision does it."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

KINDS = ('random', 'grid', 'copies', 'chain', 'empty', 'inverted', 'huge', 'tiny', 'mixed')


def make_boxes(kind: str, count: int, seed: int) -> Tensor:
    """``(count, 4)`` xyxy in no order."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 60
    size = torch.rand(count, 2, generator=random) * 40 + 1
    if kind == 'grid':  # small integers: IoU of exactly 1/3, 1/2, ... and equal boxes
        corner, size = (corner / 15).floor(), (size / 12).floor() + 1
    elif kind == 'copies':
        copy = torch.randint(0, max(1, count // 4), (count,), generator=random)
        corner, size = corner[copy], size[copy]
    elif kind == 'chain':
        return chain(count)
    elif kind == 'empty':
        size = size * (torch.rand(count, 2, generator=random) > 0.3)
    elif kind == 'inverted':
        size = size * torch.where(torch.rand(count, 2, generator=random) > 0.3, 1, -1)
    elif kind == 'huge':  # areas and their sums overflow
        corner, size = corner * 1e17, size * 10.0 ** torch.randint(15, 20, (count, 2), generator=random)
    elif kind == 'tiny':  # areas underflow
        corner, size = corner * 1e-21, size * 1e-21
    elif kind == 'mixed':
        parts = [make_boxes(part, count, seed) for part in KINDS if part not in ('chain', 'mixed')]
        pick = torch.randint(0, len(parts), (count,), generator=random)
        return torch.stack(parts)[pick, torch.arange(count)]
    return torch.cat((corner, corner + size), dim=-1)


def chain(count: int) -> Tensor:
    """Each box suppresses the next at an IoU threshold of 0.5 (7 / 13), and no other (4 / 16): the longest chain."""
    left = torch.arange(count, dtype=torch.float32) * 3
    zero = torch.zeros(count)
    return torch.stack((left, zero, left + 10, zero + 10), dim=-1)


def reference_keep(boxes: Tensor, valid: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """One image: what ``torchvision.ops.nms`` keeps of boxes sorted by score, group by group."""
    keep = torch.zeros_like(valid)
    for group in [None] if groups is None else groups.unique().tolist():
        members = (valid if group is None else valid & (groups == group)).nonzero()[:, 0]
        scores = torch.arange(len(members), 0, -1, dtype=torch.float32)
        keep[members[torchvision.ops.nms(boxes[members], scores, threshold)]] = True
    return keep


def reference_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, score_threshold: float, threshold: float, agnostic: bool, most: int
) -> Tensor:
    """One image: indices of the detections, the best first, of greedy NMS over all candidates."""
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[scores[order] > score_threshold]
    valid = torch.ones(len(order), dtype=torch.bool)
    keep = reference_keep(boxes[order], valid, threshold, None if agnostic else labels[order])
    return order[keep][:most]
