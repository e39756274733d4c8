"""NMS and its kin through ``mmcv.ops``, beside plain loops."""

from __future__ import annotations

import math

import mmcv.ops
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.devices import DEVICES, on_accelerators

F32 = np.float32


def overlap(a: np.ndarray, b: np.ndarray, offset: int) -> np.float32:
    """IoU of two float32 boxes in float32 steps."""
    width = max(F32(0), min(a[2], b[2]) - max(a[0], b[0]) + F32(offset))
    height = max(F32(0), min(a[3], b[3]) - max(a[1], b[1]) + F32(offset))
    area_a = (a[2] - a[0] + F32(offset)) * (a[3] - a[1] + F32(offset))
    area_b = (b[2] - b[0] + F32(offset)) * (b[3] - b[1] + F32(offset))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.divide(width * height, area_a + area_b - width * height)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int) -> list[int]:
    """NMS as its definition says."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # sorted() is stable
        if not any(overlap(boxes[k], boxes[i], offset) > F32(threshold) for k in kept):
            kept.append(i)
    return kept


@st.composite
def detections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with duplicates, ties, no area, or wild floats; scores with ties."""
    count = draw(st.integers(0, 25))
    whole = st.integers(0, 12).map(float)
    wild = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
    number = draw(st.sampled_from([whole, wild]))
    corners = draw(st.lists(st.tuples(number, number, number, number), min_size=count, max_size=count))
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], F32).reshape(-1, 4)
    score = draw(st.sampled_from([st.integers(0, 4).map(lambda n: n / 4), st.floats(0, 1, width=32)]))
    return boxes, np.array(draw(st.lists(score, min_size=count, max_size=count)), F32)


@settings(deadline=None, max_examples=200)
@given(case=detections(), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]), offset=st.sampled_from([0, 1]))
def test_nms_is_greedy(case: tuple[np.ndarray, np.ndarray], threshold: float, offset: int) -> None:
    boxes, scores = case
    expected = greedy(boxes, scores, threshold, offset)
    dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == expected
    np.testing.assert_array_equal(dets, np.c_[boxes, scores][expected].reshape(-1, 5))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(('threshold', 'height'), [(0.3, 3.0), (0.7, 7.0), (0.1, 1.0)])
def test_an_overlap_equal_to_the_threshold_does_not_suppress(device: str, threshold: float, height: float) -> None:
    """3 / 10 in float32 is the float32 that 0.3 becomes, but not the float64 0.3."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, height]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert mmcv.ops.nms(boxes, scores, threshold)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, threshold - 1e-4)[1].tolist() == [0]
    boxes[:, 2:] -= 1
    assert mmcv.ops.nms(boxes, scores, threshold, offset=1)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, threshold - 1e-4, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize('device', DEVICES)
def test_nms_over_several_blocks(device: str) -> None:
    """More boxes than a block, with chains of suppression, beside torchvision on a half-open grid."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.randint(0, 400, (3000, 4), generator=generator).float()
    boxes[:, 2:] = boxes[:, :2] + torch.randint(20, 60, (3000, 2), generator=generator)
    scores = torch.randperm(3000, generator=generator) / 3000
    boxes, scores = boxes.to(device), scores.to(device)
    _, kept = mmcv.ops.nms(boxes, scores, 0.3, offset=1)
    wider = boxes + boxes.new_tensor([0, 0, 1, 1])
    assert kept.tolist() == torchvision.ops.nms(wider, scores, 0.3).tolist()
    assert 100 < len(kept) < 2000


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_dtypes_layout_and_empty(device: str, dtype: torch.dtype, offset: int) -> None:
    boxes = torch.tensor([[0, 0, 8, 8], [1, 1, 9, 9], [20, 20, 30, 30], [0, 0, 8, 8]], dtype=dtype, device=device)
    scores = torch.tensor([0.5, 0.75, 0.25, 0.5], dtype=dtype, device=device)
    apart = boxes.T.contiguous().T
    assert not apart.is_contiguous()
    dets, kept = mmcv.ops.nms(apart, scores, 0.5, offset)
    assert kept.tolist() == [1, 2]
    assert dets.dtype == dtype
    dets, kept = mmcv.ops.nms(boxes[:0], scores[:0], 0.5, offset)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.long


def test_nms_score_threshold_and_max_num() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]])
    scores = torch.tensor([0.2, 0.9, 0.5])
    assert mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.3)[1].tolist() == [1, 2]
    assert mmcv.ops.nms(boxes, scores, 0.5, max_num=2)[1].tolist() == [1, 2]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('split_thr', [10000, 10])
def test_batched_nms_keeps_classes_apart(device: str, split_thr: int) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand((200, 4), generator=generator) * 50
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.randperm(200, generator=generator) / 200
    classes = torch.randint(0, 4, (200,), generator=generator)
    expected = [
        members[keep]
        for label in range(4)
        if len(members := (classes == label).nonzero()[:, 0])
        for keep in greedy(boxes[members].numpy(), scores[members].numpy(), 0.5, 0)
    ]
    dets, kept = mmcv.ops.batched_nms(
        boxes.to(device),
        scores.to(device),
        classes.to(device),
        dict(type='nms', iou_threshold=0.5, split_thr=split_thr),
    )
    assert kept.tolist() == sorted((int(i) for i in expected), key=lambda i: -scores[i])
    torch.testing.assert_close(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[kept.cpu()])


def soft(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, sigma: float, least: float, method: str, offset: int
) -> tuple[list[int], list[float]]:
    """Soft-NMS as its definition says, without mmcv's swaps: for scores without ties."""
    left, now = list(range(len(boxes))), scores.astype(F32).copy()
    kept, values = [], []
    while left:
        best = max(left, key=lambda i: now[i])
        left.remove(best)
        kept.append(best)
        values.append(now[best])
        for i in left:
            iou = overlap(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                now[i] *= F32(np.exp(-(iou * iou) / F32(sigma)))
            elif iou >= F32(threshold):
                now[i] *= F32(0) if method == 'naive' else F32(1) - iou
        left = [i for i in left if now[i] >= F32(least)]
    return kept, values


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('least', [1e-3, 0.3])
def test_soft_nms(method: str, offset: int, least: float) -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 17, 90):
        boxes = random.random((count, 4), F32) * 20
        boxes[:, 2:] += boxes[:, :2] + 1
        scores = random.permutation(count).astype(F32) / count + F32(0.01)
        kept, values = soft(boxes, scores, 0.3, 0.5, least, method, offset)
        dets, inds = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, least, method, offset)
        assert inds.tolist() == kept
        np.testing.assert_array_equal(dets[:, :4], boxes[kept])
        np.testing.assert_allclose(dets[:, 4], values, rtol=1e-5)


def soft_in_place(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, least: float, method: str, offset: int
) -> tuple[list[int], list[float]]:
    """Soft-NMS with mmcv's moves: the best is swapped to the front, the last row fills the place of a dropped one."""
    now, order = scores.astype(F32).copy(), list(range(len(boxes)))
    done = 0
    while done < len(order):
        best = max(range(done, len(order)), key=lambda k: now[order[k]])  # max() takes the first
        order[done], order[best] = order[best], order[done]
        place = done + 1
        while place < len(order):
            iou = overlap(boxes[order[done]], boxes[order[place]], offset)
            if iou >= F32(threshold):
                now[order[place]] *= F32(0) if method == 'naive' else F32(1) - iou
            if now[order[place]] < F32(least):
                order[place] = order[-1]
                order.pop()
            else:
                place += 1
        done += 1
    return order, now[order].tolist()


@settings(deadline=None, max_examples=150)
@given(
    case=detections(),
    threshold=st.sampled_from([0.25, 0.3, 0.5]),
    least=st.sampled_from([0.0, 0.2, 0.5]),
    method=st.sampled_from(['naive', 'linear']),
    offset=st.sampled_from([0, 1]),
)
def test_soft_nms_breaks_ties_as_mmcv(
    case: tuple[np.ndarray, np.ndarray], threshold: float, least: float, method: str, offset: int
) -> None:
    """Equal scores come out in the order that the moves leave, and an overlap equal to the threshold counts."""
    boxes, scores = case
    kept, values = soft_in_place(boxes, scores, threshold, least, method, offset)
    dets, inds = mmcv.ops.soft_nms(boxes, scores, threshold, 0.5, least, method, offset)
    assert inds.tolist() == kept
    assert dets[:, 4].tolist() == values


@pytest.mark.parametrize(('method', 'score'), [('naive', 0.0), ('linear', 0.25)])
def test_soft_nms_at_the_threshold(method: str, score: float) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])
    dets, kept = mmcv.ops.soft_nms(boxes, torch.tensor([0.75, 0.5]), 0.5, min_score=0.0, method=method)
    assert kept.tolist() == [0, 1]
    assert dets[1, 4] == score


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_of_boxes_without_area(method: str) -> None:
    """mmcv's own example: equal scores come out in an order that its swaps decide, and no score is NaN."""
    boxes = torch.tensor([[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]])
    scores = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.4, 0.0])
    dets, kept = mmcv.ops.soft_nms(boxes, scores, 0.6, sigma=0.5, method=method)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(dets[:, 4], scores[:5])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_soft_nms_dtypes_and_empty(device: str, dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 4], [20, 20, 30, 30]], dtype=dtype, device=device)
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype, device=device)
    dets, kept = mmcv.ops.soft_nms(boxes, scores, method='linear')
    assert kept.tolist() == [1, 0, 2]
    assert dets[:, 4].tolist() == [0.75, 0.25, 0.25]
    assert (dets.dtype, dets.device.type) == (dtype, device)
    dets, kept = mmcv.ops.soft_nms(boxes[:0], scores[:0])
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)


def test_nms_match_reports_whom_each_box_suppressed() -> None:
    """Here an overlap equal to the threshold suppresses."""
    boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 10], [50, 0, 60, 10], [0, 0, 10, 9]], F32)
    scores = np.array([0.3, 0.9, 0.5, 0.6], F32)
    groups = mmcv.ops.nms_match(np.c_[boxes, scores], 0.5)
    assert [group.tolist() for group in groups] == [[1, 3, 0], [2]]
    groups = mmcv.ops.nms_match(torch.from_numpy(np.c_[boxes, scores]), 0.51)
    assert [group.tolist() for group in groups] == [[1, 3], [2], [0]]
    assert mmcv.ops.nms_match(np.zeros((0, 5), F32), 0.5) == []


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(device: str, dtype: torch.dtype, mode: str, offset: int) -> None:
    first, second = boxes_of_both_kinds(dtype, device)
    expected = mmcv.ops.bbox._bbox_overlaps_cpu(first.cpu().float(), second.cpu().float(), mode, False, offset)
    actual = mmcv.ops.bbox_overlaps(first, second, mode, False, offset)
    assert (actual.shape, actual.dtype) == ((30, 40), dtype)
    tolerance = 5e-3 if dtype == torch.float16 else 1e-6
    torch.testing.assert_close(actual.cpu().float(), expected, rtol=tolerance, atol=tolerance)
    aligned = mmcv.ops.bbox_overlaps(first, second[:30], mode, True, offset)
    torch.testing.assert_close(aligned, actual[:, :30].diagonal())
    if mode == 'iou' and offset == 0:
        torch.testing.assert_close(
            torchvision.ops.box_iou(first.float(), second.float()).cpu(), expected, rtol=1e-5, atol=1e-6
        )


def boxes_of_both_kinds(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    boxes = torch.rand((70, 4), generator=generator) * 20
    boxes[:, 2:] += boxes[:, :2] + 0.5
    return boxes[:30].to(dtype).to(device), boxes[30:].to(dtype).to(device)


@pytest.mark.parametrize(('device', 'overlap'), [('cpu', math.nan), *on_accelerators(0.0)])
def test_bbox_overlaps_without_area(device: str, overlap: float) -> None:
    """With an offset, mmcv's CUDA kernel divides by one pixel at least; its CPU code by nothing."""
    empty = torch.tensor([[5.0, 5.0, 4.0, 4.0]], device=device)
    found = mmcv.ops.bbox_overlaps(empty, empty, offset=1)
    torch.testing.assert_close(found.cpu(), torch.tensor([[overlap]]), equal_nan=True)


def test_bbox_overlaps_of_nothing() -> None:
    assert mmcv.ops.bbox_overlaps(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert mmcv.ops.bbox_overlaps(torch.zeros(0, 4), torch.zeros(0, 4), aligned=True).shape == (0,)
