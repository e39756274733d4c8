"""Masks of classes and their pasting, against mmdet's FCNMaskHead."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from torch import Tensor

from mmtrtvit.deploy.ops import paste_masks, select_class_masks


def mmdet_paste(logits: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    head = FCNMaskHead(num_convs=0, in_channels=1, num_classes=1, class_agnostic=True)
    return head._predict_by_feat_single(
        logits[:, None],
        boxes.clone(),
        torch.zeros(len(boxes), dtype=torch.int64),
        {'scale_factor': (1.0, 1.0), 'ori_shape': (height, width)},
        ConfigDict(mask_thr_binary=threshold),
        rescale=True,
    )


@pytest.mark.parametrize('threshold', [0.5, 0.3, 0.0, -1.0])
@pytest.mark.parametrize(('height', 'width'), [(97, 131), (1, 1), (480, 33)])
def test_pasting_is_mmdets(height: int, width: int, threshold: float) -> None:
    random = torch.Generator().manual_seed(height)
    image = torch.tensor([width, height])
    corner = torch.rand(40, 2, generator=random) * image
    boxes = torch.cat((corner, torch.minimum(corner + torch.rand(40, 2, generator=random) * image, image)), dim=1)
    nasty = [
        [0, 0, width, height],
        [-20, -30, width + 40, height + 50],
        [width / 2, height / 2, width / 2, height / 2],  # no size
        [0.5, 0.5, 0.5, height],  # no width, on the centre of a pixel
        [0, 0, 0.01, 0.01],
        [width - 0.25, height - 0.25, width, height],
    ]
    boxes = torch.cat((boxes, torch.tensor(nasty, dtype=torch.float32)))
    logits = torch.randn(len(boxes), 28, 28, generator=random) * 4
    pasted = paste_masks(logits.sigmoid(), boxes, height, width, threshold)
    expected = mmdet_paste(logits, boxes, height, width, threshold)
    assert pasted.dtype == expected.dtype
    assert torch.equal(pasted, expected)


def test_boxes_outside_of_the_image_have_no_pixels() -> None:
    boxes = torch.tensor([[200.0, 5, 210, 9], [-50, 5, -40, 9], [5, -50, 9, -40], [5, 200, 9, 210]])
    assert paste_masks(torch.ones(4, 28, 28), boxes, 60, 80).sum() == 0


def test_no_masks() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 60, 80).shape == (0, 60, 80)


@pytest.mark.parametrize(
    ('masks', 'boxes', 'height', 'text'),
    [
        (torch.zeros(2, 28, 28), torch.zeros(3, 4), 5, r'masks \(2, 28, 28\) and boxes \(3, 4\)'),
        (torch.zeros(2, 1, 28, 28), torch.zeros(2, 4), 5, r'masks \(2, 1, 28, 28\)'),
        (
            torch.zeros(1, 28, 28),
            torch.tensor([[0, 0, float('nan'), 1]]),
            5,
            r'box \[0.0, 0.0, nan, 1.0\] is not finite',
        ),
        (torch.zeros(1, 28, 28), torch.zeros(1, 4), 0, 'an image of 0x9 pixels'),
    ],
)
def test_pasting_refuses(masks: Tensor, boxes: Tensor, height: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        paste_masks(masks, boxes, height, 9)


@pytest.mark.parametrize('classes', [1, 4])
def test_each_detection_has_the_mask_of_its_class(classes: int) -> None:
    logits = torch.randn(2, 5, classes, 6, 7)
    labels = torch.randint(0, classes, (2, 5))
    labels[1, 3:] = -1
    masks = select_class_masks(logits, labels)
    assert masks.shape == (2, 5, 6, 7)
    for image in range(2):
        for row in range(5):
            expected = logits[image, row, max(0, int(labels[image, row]))].sigmoid()
            torch.testing.assert_close(masks[image, row], expected, rtol=0, atol=1e-6)


def test_masks_that_know_no_class() -> None:
    logits = torch.randn(1, 5, 1, 6, 7)
    assert torch.equal(select_class_masks(logits, torch.tensor([[3, 0, 79, -1, 5]])), logits[:, :, 0].sigmoid())
