"""Non-maximum suppression: torchvision's kernel where it says the same as mmcv's, exact tensor code elsewhere."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.bbox import overlaps
from mmtrtvit.compat.mmcv_ext.common import as_float32, compute_dtype

#: Boxes of a block of :func:`_blockwise_nms`: its overlaps with 20000 boxes take 80 MB.
_BLOCK = 1024


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression of boxes that overlap a better one by *more than* the threshold.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2, pixels.
        scores: ``(N,)``.
        iou_threshold: Rounded to float32 before it is compared, as mmcv's is.
        offset: 0 or 1; see :func:`~mmtrtvit.compat.mmcv_ext.bbox.overlaps`.

    Returns:
        Indices of the kept boxes, best first; equal scores keep their order in the input.
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    dtype = compute_dtype(boxes, scores)
    boxes, scores, threshold = boxes.to(dtype), scores.to(dtype), as_float32(iou_threshold)
    if offset == 0:
        return torchvision.ops.nms(boxes, scores, threshold)
    return _blockwise_nms(boxes, scores, threshold, offset)


def _blockwise_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> Tensor:
    """The same for an offset, which torchvision lacks: widening the boxes instead would round differently."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        size = len(block)
        suppresses = overlaps(block, boxes[start:], offset=offset) > threshold  # (size, boxes left)
        kept = _greedy(alive[start : start + size], suppresses[:, :size].triu(1))
        alive[start : start + size] = kept
        alive[start + size :] &= ~suppresses[kept, size:].any(0)
    return order[alive]


def _greedy(candidates: Tensor, suppresses: Tensor) -> Tensor:
    """Which candidates the greedy pass keeps; ``suppresses[i, j]`` is only set for i < j.

    The answer is the only ``kept`` with ``kept[j] = candidates[j] and no kept[i] suppresses j``, and each
    round settles at least one more of its leading entries.
    """
    kept = candidates
    while True:
        updated = candidates & ~(suppresses & kept[:, None]).any(0)
        if torch.equal(updated, kept):
            return kept
        kept = updated


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Suppression that reports who suppressed whom; here an overlap *equal* to the threshold suppresses.

    Args:
        dets: ``(N, 5)`` as x1, y1, x2, y2, score.
        iou_threshold: Rounded to float32.

    Returns:
        One list for each kept box: its index, then those of the boxes it suppressed, best first.
    """
    dets = dets.to(compute_dtype(dets))
    boxes, threshold = dets[:, :4], as_float32(iou_threshold)
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        best, rest = left[:1], left[1:]
        suppressed = overlaps(boxes[best], boxes[rest])[0] >= threshold
        groups.append([int(best), *rest[suppressed].tolist()])
        left = rest[~suppressed]
    return groups
