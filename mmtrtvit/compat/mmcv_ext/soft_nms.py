"""Soft-NMS (Bodla et al., arXiv 1704.04503): overlapping boxes lose score instead of being dropped."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.common import as_float32, compute_dtype

#: mmcv's numbers of the decay methods.
NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Take the best box, decay the others by their overlap with it, drop those below ``min_score``, repeat.

    Follows mmcv's in-place algorithm step for step, as its swaps decide which of two equal scores comes first.
    Two deviations, of ``gaussian`` only: a factor may be one rounding step off, and two boxes without area overlap
    by 0, where mmcv's 0 / 0 makes the score NaN.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2, pixels.
        scores: ``(N,)``.
        dets: ``(N, 5)``; its first rows receive the kept boxes with their decayed scores.
        iou_threshold: From this overlap on, ``naive`` drops a box and ``linear`` decays it by 1 - overlap.
        sigma: ``gaussian`` decays by exp(-overlap^2 / sigma).
        min_score: A decayed score below it drops the box.
        method: :data:`NAIVE`, :data:`LINEAR` or :data:`GAUSSIAN`.
        offset: 0 or 1; see :func:`~mmtrtvit.compat.mmcv_ext.bbox.overlaps`.

    Returns:
        Indices of the kept boxes in the order they were taken; as many as rows of ``dets`` were written.
    """
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    dtype = compute_dtype(boxes, scores)
    columns = torch.cat([boxes.to(dtype).T, scores.to(dtype)[None]]).cpu().contiguous().numpy()
    area = (columns[2] - columns[0] + offset) * (columns[3] - columns[1] + offset)
    table = np.concatenate([columns, area[None]])  # (6, N): x1, y1, x2, y2, score, area
    index = np.arange(len(boxes))
    taken, count = 0, len(boxes)
    while taken < count:
        best = taken + int(table[4, taken:count].argmax())
        table[:, [taken, best]] = table[:, [best, taken]]
        index[[taken, best]] = index[[best, taken]]
        taken += 1
        rest = table[:, taken:count]
        rest[4] *= _decay(table[:, taken - 1], rest, as_float32(iou_threshold), sigma, method, offset)
        dropped = rest[4] < as_float32(min_score)
        if dropped.any():
            count = taken + _fill_holes(rest, index[taken:count], dropped)
    dets[:count].copy_(torch.from_numpy(table[:5, :count].T))
    return torch.from_numpy(index[:count].copy()).to(boxes.device)


def _decay(
    box: NDArray[np.floating],
    others: NDArray[np.floating],
    threshold: float,
    sigma: float,
    method: int,
    offset: int,
) -> NDArray[np.floating]:
    """Factors of the other boxes' scores, in their dtype; columns as in ``softnms``' table."""
    width = np.maximum(np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]) + offset, 0)
    height = np.maximum(np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]) + offset, 0)
    intersection = width * height
    with np.errstate(divide='ignore', invalid='ignore'):  # boxes without area
        overlap = intersection / (box[5] + others[5] - intersection)
    one = others.dtype.type(1)
    if method == NAIVE:
        return np.where(overlap >= threshold, 0 * one, one)
    if method == LINEAR:
        return np.where(overlap >= threshold, one - overlap, one)
    overlap = np.where(np.isnan(overlap), 0, overlap)
    exponent = -(overlap * overlap) / others.dtype.type(as_float32(sigma))
    # in float64 and then rounded: nearer than NumPy's float exp to the C library's, which is off by half a step
    return np.exp(exponent.astype(np.float64)).astype(others.dtype)


def _fill_holes(rest: NDArray[np.floating], index: NDArray[np.int64], dropped: NDArray[np.bool_]) -> int:
    """Move kept columns into dropped ones as mmcv does, and count the kept.

    mmcv walks from the left and puts the last column into each hole, again if that one is dropped too: the holes
    from the left are filled with the kept columns from the right.
    """
    count = int((~dropped).sum())
    holes = np.flatnonzero(dropped[:count])
    fillers = count + np.flatnonzero(~dropped[count:])[::-1]
    rest[:, holes] = rest[:, fillers]
    index[holes] = index[fillers]
    return count
