"""ONNX's NonMaxSuppression between a static input and a static output, and its meaning in eager PyTorch.

The operator's output has as many rows as boxes were selected. Here it is scattered into a mask of kept boxes at once,
so that nothing outside of this operator has a shape that depends on the data.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision.ops
from torch import Tensor


@torch.library.custom_op('mmtrtvit::nms_mask', mutates_args=())
def _nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Boxes ``(B, K, 4)`` kept of each class by scores ``(B, G, K)``, 0 where a box is not of it: ``(B, K)`` 0 or 1."""
    kept = scores.new_zeros(boxes.shape[:2])
    for image_boxes, image_scores, image_kept in zip(boxes, scores, kept, strict=True):
        for group_scores in image_scores[(image_scores > 0).any(dim=-1)]:
            members = (group_scores > 0).nonzero()[:, 0]
            chosen = torchvision.ops.nms(image_boxes[members], group_scores[members], iou_threshold)
            image_kept[members[chosen]] = 1.0
    return kept


@_nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return scores.new_empty(boxes.shape[:2])


def nms_by_class(
    boxes: Tensor, valid: Tensor, iou_threshold: float, groups: Tensor | None, num_groups: int | None
) -> Tensor:
    """Greedy NMS by the backend's own operator; arguments and result as ``greedy_keep``.

    Decisions are torchvision's: ONNX Runtime computes the same IoU in float32 and compares with ``>``. It orders the
    corners of a box first, which torchvision does not; a box with x2 < x1 or y2 < y1, which overlaps nothing in
    torchvision, is given to it as an empty one, which overlaps nothing in either.
    """
    boxes = boxes.float()
    boxes = torch.cat((boxes[..., :2], torch.maximum(boxes[..., :2], boxes[..., 2:])), dim=-1)
    count = boxes.shape[1]
    # The order is given: the scores of the operator are K, K - 1, ..., 1, and 0 says "not in this group".
    rank = torch.arange(count, 0, -1, device=boxes.device, dtype=torch.float32)
    scores = torch.where(valid, rank, 0.0)[:, None, :]
    if groups is not None:
        if num_groups is None:
            # A group's number becomes the place of its first member.
            same = groups[:, :, None] == groups[:, None, :]
            groups = same.to(torch.float32).argmax(dim=-1)
            num_groups = count
        classes = torch.arange(num_groups, device=boxes.device)[None, :, None]
        scores = torch.where(groups[:, None, :] == classes, scores, 0.0)
    return _nms_mask(boxes, scores, iou_threshold) > 0.5


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export(custom_translation_table=...)`` needs for the ``onnx`` form of NMS. Needs onnxscript."""
    import onnxscript

    op: Any = onnxscript.opset20
    tensor = onnxscript.FLOAT

    def nms_mask(boxes: tensor, scores: tensor, iou_threshold: float) -> tensor:  # type: ignore[valid-type]
        most = op.Shape(scores, start=2, end=3)
        threshold, above = op.Constant(value_float=iou_threshold), op.Constant(value_float=0.0)
        selected = op.NonMaxSuppression(boxes, scores, most, threshold, above)
        where = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        kept = op.Expand(op.Constant(value_float=1.0), op.Shape(where, start=0, end=1))
        nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(boxes, start=0, end=2))
        return op.ScatterND(nothing, where, kept)

    return {torch.ops.mmtrtvit.nms_mask.default: nms_mask}
