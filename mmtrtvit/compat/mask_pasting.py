"""mmdet's pasting of masks on the CPU, for boxes that lie wholly in the padding.

For mmdet 3.3.0. Where the pipeline of testing pads (``Pad``), the padded canvas counts as the image, and a detector may
find something in the padding. On the CPU ``FCNMaskHead`` pastes each mask into the part of the image that its box
covers; of such a box that part is empty, and it raises ``RuntimeError``. On a GPU the whole image is pasted at once and
the mask is empty. What is done: the heads of a model that is given to :func:`paste_inside` paste what is on the image,
and a mask of what is not is empty there too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def paste_inside(model: nn.Module) -> None:
    """Mend the mask heads of a detector; of other models nothing changes.

    Args:
        model: Built, wrapped or not.
    """
    for module in model.modules():
        if any(kind.__name__ == 'FCNMaskHead' for kind in type(module).__mro__):
            _mend(module)


def _mend(head: Any) -> None:
    paste = head._predict_by_feat_single
    if getattr(paste, '_mmtrtvit', False):
        return

    def safe(
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict[str, Any],
        rcnn_test_cfg: Any,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        rest = rcnn_test_cfg, rescale, activate_map
        scale, (height, width) = img_meta['scale_factor'], img_meta['ori_shape'][:2]
        if not rescale:  # to the pixel as the head does
            width, height, scale = round(width * scale[0]), round(height * scale[1]), (1.0, 1.0)
        inside = (bboxes[:, :2] / bboxes.new_tensor(scale) < bboxes.new_tensor([width, height])).all(1)
        if inside.all():
            whole: Tensor = paste(mask_preds, bboxes, labels, img_meta, *rest)
            return whole
        masks = torch.zeros(len(bboxes), height, width, dtype=torch.bool, device=bboxes.device)
        if inside.any():
            pasted = paste(mask_preds[inside], bboxes[inside], labels[inside], img_meta, *rest)
            masks = masks.to(pasted.dtype)
            masks[inside] = pasted
        bboxes /= bboxes.new_tensor(scale).repeat(2)  # in place, as the head does
        return masks

    safe._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    head._predict_by_feat_single = safe
