"""Exact greedy NMS in plain tensors of static shape.

Boxes sorted by score, S[i, j] = "box i suppresses box j" (IoU above the threshold, i before j). Greedy NMS is the one
solution of ``keep = valid & ~(keep @ S)``: box j depends on boxes before it only, so there is one solution, found by
induction, and greedy NMS is it. Iterated from ``keep = valid`` (Cluster-NMS, arXiv 2005.03572), every round settles
one more link of each chain of suppressions. The map turns larger sets into smaller ones, so successive rounds hold the
solution between them: **where two successive rounds agree, both are right**. That is the proof that the rounds
sufficed, and it costs one comparison.

The IoU is computed as torchvision does (float32, ``inter / (area_i + area_j - inter)``), operation by operation, so
that a pair at the threshold is decided alike. A form without the division rounds differently and would not be.

Three forms of the same decisions:

- ``static``: a fixed number of rounds; no Loop, no NonMaxSuppression. ``exact`` says whether they sufficed.
- ``loop``: rounds until nothing changes, as an ONNX Loop whose tensors have static shapes. Always exact.
- ``onnx``: ONNX's NonMaxSuppression between a static input and a static output. Always exact.

Letters: B batch (images, or images x levels), N candidates, K the sorted ones, M detections.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmtrtvit.deploy.ops.boxes import check_top_k, gather_rows, top_k
from mmtrtvit.deploy.ops.onnx_nms import nms_by_class

NMSForm = Literal['static', 'loop', 'onnx']


@dataclass(frozen=True)
class NMSOptions:
    """How NMS is written into the graph.

    Args:
        form: ``static``, ``loop`` or ``onnx``: see this module's text.
        pre_top_k: How many candidates, the best first, NMS looks at; 1 .. 3840.
        rounds: Rounds of the static form, at least 2. The longest chain of suppressions decides how many are needed.
            Seen while this was written: second stages of trained detectors 2 to 6; their region proposals, 1000 a
            level, 9 to 18; simulated crowds 15; a proposal network as mmengine initialises it up to 96. 32 leaves
            room, and ``exact`` tells where they were too few.

    Raises:
        ValueError: If a value is out of range.
    """

    form: NMSForm = 'static'
    pre_top_k: int = 1000
    rounds: int = 32

    def __post_init__(self) -> None:
        if self.form not in get_args(NMSForm):
            raise ValueError(f'NMSOptions: form={self.form!r} is not one of {", ".join(get_args(NMSForm))}')
        check_top_k(self.pre_top_k)
        if not isinstance(self.rounds, int) or self.rounds < 2:
            raise ValueError(
                f'NMSOptions: rounds={self.rounds!r}; two at least: one to suppress, one to see it settled'
            )


class Detections(NamedTuple):
    """What is left after NMS, the best first. Rows past ``num_dets``: boxes 0, scores 0, labels -1, index 0.

    Attributes:
        boxes: ``(B, M, 4)`` float32 xyxy.
        scores: ``(B, M)`` float32.
        labels: ``(B, M)`` int64.
        num_dets: ``(B,)`` int64.
        exact: ``(B,)`` bool: these are the detections of greedy NMS over all N candidates, proved.
        index: ``(B, M)`` int64, which candidate each row is.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num_dets: Tensor
    exact: Tensor
    index: Tensor  # type: ignore[assignment]


def float32_at_most(value: float) -> float:
    """The largest float32 that is no larger than ``value``, which is 0 .. 1.

    For a float32 x, ``x > value`` in double precision (torchvision's comparison) is ``x > float32_at_most(value)``.
    Without a tensor, which an export would trace.
    """
    (bits,) = struct.unpack('<i', struct.pack('<f', value))
    (nearest,) = struct.unpack('<f', struct.pack('<i', bits))
    if nearest > value:
        (nearest,) = struct.unpack('<f', struct.pack('<i', bits - 1))
    return float(nearest)


def suppression_matrix(boxes: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """S[i, j]: whether box i, if kept, suppresses box j.

    Args:
        boxes: ``(B, K, 4)`` xyxy, sorted by score, the best first.
        iou_threshold: 0 .. 1; an IoU above it suppresses, an equal one does not.
        groups: ``(B, K)`` integers; boxes of different groups leave each other alone.

    Returns:
        ``(B, K, K)`` bool, strictly upper triangular.
    """
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2[:, :, None], x2[:, None, :]) - torch.maximum(x1[:, :, None], x1[:, None, :])
    height = torch.minimum(y2[:, :, None], y2[:, None, :]) - torch.maximum(y1[:, :, None], y1[:, None, :])
    inter = width.clamp(min=0.0) * height.clamp(min=0.0)
    # 0 / 0 of two empty boxes is NaN, which is above nothing
    iou = inter / (area[:, :, None] + area[:, None, :] - inter)
    count = boxes.shape[1]
    later = torch.ones(count, count, dtype=torch.bool, device=boxes.device).triu(1)
    matrix = (iou > float32_at_most(iou_threshold)) & later
    if groups is not None:
        matrix = matrix & (groups[:, :, None] == groups[:, None, :])
    return matrix


def _next_round(keep: Tensor, valid: Tensor, matrix: Tensor) -> Tensor:
    """One round: what stays if ``keep`` ``(B, 1, K)`` were right; all tensors float32 0 or 1."""
    return valid * (torch.matmul(keep, matrix) < 0.5).to(valid.dtype)


def _static_rounds(valid: Tensor, matrix: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """The last two of a fixed number of rounds."""
    previous, keep = valid, _next_round(valid, valid, matrix)
    for _ in range(rounds - 1):
        previous, keep = keep, _next_round(keep, valid, matrix)
    return keep, previous


def _loop_rounds(valid: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds until two agree: after round r the first r boxes are settled, so K + 1 rounds at the most."""

    def unsettled(keep: Tensor, previous: Tensor) -> Tensor:
        return (keep != previous).any()

    def step(keep: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        return _next_round(keep, valid, matrix), keep.clone()

    state = (_next_round(valid, valid, matrix), valid.clone())
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return torch.while_loop(unsettled, step, state)
    while unsettled(*state):
        state = step(*state)
    return state


def _keep_and_settled(
    boxes: Tensor,
    valid: Tensor,
    iou_threshold: float,
    groups: Tensor | None,
    options: NMSOptions,
    num_groups: int | None,
) -> tuple[Tensor, Tensor]:
    """Kept boxes ``(B, K)``, and for which of the rows that is proved ``(B, K)``."""
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f'NMS: iou_threshold={iou_threshold} is not within 0 .. 1')
    if options.form == 'onnx':
        keep = nms_by_class(boxes, valid, float32_at_most(iou_threshold), groups, num_groups)
        return keep, torch.ones_like(keep)
    matrix = suppression_matrix(boxes, iou_threshold, groups).to(torch.float32)
    start = valid.to(torch.float32)[:, None, :]
    if options.form == 'loop':
        keep, previous = _loop_rounds(start, matrix)
    else:
        keep, previous = _static_rounds(start, matrix, options.rounds)
    return keep[:, 0] > 0.5, (keep == previous)[:, 0]


def greedy_keep(
    boxes: Tensor,
    valid: Tensor,
    iou_threshold: float,
    groups: Tensor | None = None,
    options: NMSOptions | None = None,
    num_groups: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy NMS: which boxes stay, decided as ``torchvision.ops.nms`` decides.

    Levels of a pyramid, kept apart, are best given as a batch: ``(B * L, K, 4)``.

    Args:
        boxes: ``(B, K, 4)`` xyxy, sorted by score, the best first.
        valid: ``(B, K)`` bool; the others neither stay nor suppress.
        iou_threshold: 0 .. 1; an IoU above it suppresses, an equal one does not.
        groups: ``(B, K)`` integers; boxes of different groups leave each other alone. None: one group.
        options: The form and its rounds.
        num_groups: Groups are 0 .. num_groups - 1; saves the ``onnx`` form from finding out.

    Returns:
        Kept boxes ``(B, K)`` bool, and ``(B,)`` bool: whether they are proved to be those of greedy NMS.

    Raises:
        ValueError: If the threshold is out of range.
    """
    keep, settled = _keep_and_settled(boxes, valid, iou_threshold, groups, options or NMSOptions(), num_groups)
    return keep, settled.all(dim=-1)


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_dets: int,
    class_agnostic: bool = False,
    options: NMSOptions | None = None,
    min_size: float | None = None,
    num_classes: int | None = None,
) -> Detections:
    """The detections among N candidates: threshold, the best K, greedy NMS, the best ``max_dets``.

    ``exact`` is true if nothing was lost by looking at the best K = ``options.pre_top_k`` only and NMS has settled.
    Greedy NMS decides on a box from those before it, so among the best K it keeps the same boxes whatever comes after
    them. Nothing is lost, therefore, if all candidates above the thresholds are within the best K, or if ``max_dets``
    of the best K were kept. NMS has settled if the rows up to the last one that is given out are proved.

    Args:
        boxes: ``(B, N, 4)`` xyxy, pixels.
        scores: ``(B, N)``, no NaN.
        labels: ``(B, N)`` integers, 0 or more.
        score_threshold: Candidates must score more.
        iou_threshold: 0 .. 1; an IoU above it suppresses.
        max_dets: M, detections given out; 1 .. 3840.
        class_agnostic: Whether boxes suppress those of other classes.
        options: The form of NMS, its K and its rounds.
        min_size: Candidates must be wider and higher than this, pixels. None: no such test.
        num_classes: Labels are 0 .. num_classes - 1; saves the ``onnx`` form from finding out.

    Returns:
        The detections, the best first; of equal scores the lower index first.

    Raises:
        ValueError: If a threshold or count is out of range.
    """
    options = options or NMSOptions()
    boxes, scores = boxes.float(), scores.float()
    candidates = scores > score_threshold
    if min_size is not None:
        size = boxes[..., 2:] - boxes[..., :2]
        candidates = candidates & (size > min_size).all(dim=-1)
    nothing = torch.full_like(scores, float('-inf'))
    values, index = top_k(torch.where(candidates, scores, nothing), options.pre_top_k)
    valid = values > score_threshold
    boxes, labels = gather_rows(boxes, index), torch.gather(labels.to(torch.int64), 1, index)
    keep, settled = _keep_and_settled(
        boxes, valid, iou_threshold, None if class_agnostic else labels, options, num_classes
    )

    count = keep.sum(dim=-1)
    proved = settled.all(dim=-1)
    if options.form == 'static':
        # Enough detections before the first open row: what comes after it is not given out.
        position = torch.arange(keep.shape[1], device=keep.device)
        first_open = torch.where(settled, keep.shape[1], position).amin(dim=-1, keepdim=True)
        proved = proved | ((keep & (position < first_open)).sum(dim=-1) >= max_dets)
    exact = proved & ((candidates.sum(dim=-1) <= keep.shape[1]) | (count >= max_dets))
    return _first_kept(Detections(boxes, values, labels, count, exact, index), keep, max_dets)


def _first_kept(sorted_candidates: Detections, keep: Tensor, max_dets: int) -> Detections:
    """The first ``max_dets`` kept rows, padded."""
    batch, rows = keep.shape
    check_top_k(max_dets)
    # Position as the key of the TopK: no two are equal, float32 holds them all.
    key = torch.where(keep, torch.arange(rows, 0, -1, device=keep.device, dtype=torch.float32), 0.0)
    first, place = top_k(key, max_dets)
    missing = max_dets - first.shape[1]
    if missing > 0:
        first = torch.cat((first, first.new_zeros(batch, missing)), dim=1)
        place = torch.cat((place, place.new_zeros(batch, missing)), dim=1)
    real = first > 0.5
    boxes, scores, labels, count, exact, index = sorted_candidates
    return Detections(
        boxes=torch.where(real[..., None], gather_rows(boxes, place), 0.0),
        scores=torch.where(real, torch.gather(scores, 1, place), 0.0),
        labels=torch.where(real, torch.gather(labels, 1, place), -1),
        num_dets=count.clamp(max=max_dets),
        exact=exact,
        index=torch.where(real, torch.gather(index, 1, place), 0),
    )
