"""Masks of boxes in the padding, against mmdet's own pasting of the whole image, which is that of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict

import mmtrtvit  # noqa: F401  applies the mends
from mmtrtvit.compat.mask_pasting import paste_inside

BOXES = torch.tensor([[4.0, 4, 30, 20], [60, 10, 90, 30], [10, 40, 30, 60], [30, 20, 62, 46], [70, 50, 80, 60]])
#: The image is 60 x 40 pixels at the top left of a canvas; boxes 1, 2 and 4 are wholly in the padding.
META: dict[str, Any] = {'ori_shape': (80, 120), 'scale_factor': (0.5, 0.5), 'img_shape': (64, 96)}


def head() -> Any:
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    torch.manual_seed(0)
    return FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2).eval()


def paste(module: Any, boxes: torch.Tensor, rescale: bool = True, threshold: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 2, 28, 28, generator=generator)[: len(boxes)]
    labels = torch.tensor([0, 1, 0, 1, 0])[: len(boxes)]
    cfg = ConfigDict(mask_thr_binary=threshold)
    masks: torch.Tensor = module._predict_by_feat_single(logits, boxes.clone(), labels, META, cfg, rescale=rescale)
    return masks


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize(('threshold', 'kind'), [(0.5, torch.bool), (-1, torch.uint8)])
def test_boxes_in_the_padding_have_empty_masks(threshold: float, kind: torch.dtype, rescale: bool) -> None:
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    module = head()
    with pytest.raises(RuntimeError):
        paste(module, BOXES, rescale, threshold)  # mmdet by itself
    paste_inside(module)
    found = paste(module, BOXES, rescale, threshold)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 2, 28, 28, generator=generator)
    chosen = logits.sigmoid()[torch.arange(5), torch.tensor([0, 1, 0, 1, 0])][:, None]
    boxes, size = (BOXES / 0.5, (80, 120)) if rescale else (BOXES, (40, 60))
    whole, _ = _do_paste_mask(chosen, boxes, *size, skip_empty=False)
    assert found.dtype == kind
    if kind == torch.bool:
        assert torch.equal(found, whole >= 0.5)
    else:  # on the CPU mmdet leaves out the faint edge of these: as it pastes the first alone
        assert torch.equal(found[:1], paste(head(), BOXES[:1], rescale, threshold))
    assert [bool(mask.any()) for mask in found] == [True, False, False, True, False]


def test_all_else_is_mmdets() -> None:
    plain, mended = head(), head()
    paste_inside(mended)
    paste_inside(mended)  # twice is once
    assert torch.equal(paste(mended, BOXES[:1]), paste(plain, BOXES[:1]))
    assert torch.equal(paste(mended, BOXES[:1], False), paste(plain, BOXES[:1], False))
    outside = paste(mended, BOXES[1:3])
    assert outside.shape == (2, 80, 120)
    assert not outside.any()
    paste_inside(torch.nn.Linear(1, 1))
