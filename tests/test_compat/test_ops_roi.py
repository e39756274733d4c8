"""RoIAlign and RoIPool through ``mmcv.ops``, beside plain loops, torchvision and numerical gradients."""

from __future__ import annotations

import math

import mmcv.ops
import pytest
import torch
import torchvision
from torch import Tensor

from mmtrtvit.compat.mmcv_ext import roi_align_plain, roi_pool
from tests.devices import ACCELERATORS, DEVICES, on_accelerators

BINS, SCALE = (3, 2), 0.25

#: Within the map, over its edge, without area, thin, outside, and one that covers it all; image pixels.
ROIS = [
    [0, 4, 6, 30, 22],
    [1, -12, -9, 18, 60],
    [1, 8, 8, 8, 8],
    [0, 3, 5, 3.5, 40],
    [1, 200, 200, 260, 230],
    [0, -4, -4, 60, 60],
]


def case(dtype: torch.dtype = torch.float32, device: str = 'cpu') -> tuple[Tensor, Tensor]:
    """A map ``(2, 3, 9, 11)`` and :data:`ROIS`."""
    features = torch.randn((2, 3, 9, 11), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return features.to(dtype).to(device), torch.tensor(ROIS, dtype=dtype, device=device)


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """RoIAlign's sample: 0 from more than one pixel outside on, the edge's pixel nearer to it."""
    height, width = len(plane), len(plane[0])
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = plane[top][left] * (1 - x + left) + plane[top][right] * (x - left)
    below = plane[bottom][left] * (1 - x + left) + plane[bottom][right] * (x - left)
    return above * (1 - y + top) + below * (y - top)


def align(features: Tensor, rois: Tensor, sampling_ratio: int, mode: str, aligned: bool) -> Tensor:
    """RoIAlign as its definition says."""
    output = torch.zeros((len(rois), features.size(1), *BINS), dtype=torch.float64)
    shift = 0.5 if aligned else 0.0
    for number, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * SCALE - shift for corner in corners)
        width, height = (size if aligned else max(size, 1.0) for size in (x2 - x1, y2 - y1))
        step_y, step_x = height / BINS[0], width / BINS[1]
        down, across = (sampling_ratio or math.ceil(step) for step in (step_y, step_x))
        for channel, plane in enumerate(features[int(image)].tolist()):
            for i in range(BINS[0]):
                for j in range(BINS[1]):
                    samples = [
                        bilinear(plane, y1 + (i + (a + 0.5) / down) * step_y, x1 + (j + (b + 0.5) / across) * step_x)
                        for a in range(down)
                        for b in range(across)
                    ]
                    if mode == 'max':
                        output[number, channel, i, j] = max(samples, default=-10000.0)
                    else:
                        output[number, channel, i, j] = sum(samples) / max(1, len(samples))
    return output


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2])
def test_roi_align_is_its_definition(mode: str, aligned: bool, sampling_ratio: int) -> None:
    features, rois = case(torch.float64)
    expected = align(features, rois, sampling_ratio, mode, aligned)
    actual = mmcv.ops.roi_align(features, rois, BINS, SCALE, sampling_ratio, mode, aligned)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_is_torchvisions(device: str, aligned: bool, sampling_ratio: int) -> None:
    features, rois = case(device=device)
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    layer = mmcv.ops.RoIAlign(BINS, SCALE, sampling_ratio, aligned=aligned)
    output = layer(ours, rois)
    expected = torchvision.ops.roi_align(theirs, rois, BINS, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_gradient(device: str, mode: str, aligned: bool, sampling_ratio: int) -> None:
    features, rois = case(torch.float64, device)
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.roi_align(x, rois, BINS, SCALE, sampling_ratio, mode, aligned),
        features,
        nondet_tol=1e-9,
        fast_mode=True,
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_half_precision(device: str, mode: str, dtype: torch.dtype) -> None:
    """The result is the float32 one, rounded once."""
    features, rois = case(dtype, device)
    features.requires_grad_()
    expected = mmcv.ops.roi_align(features.detach().float(), rois.float(), BINS, SCALE, 2, mode)
    output = mmcv.ops.roi_align(features, rois, BINS, SCALE, 2, mode)
    torch.testing.assert_close(output, expected.to(dtype), rtol=0, atol=0)
    output.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == dtype
    assert features.grad.isfinite().all()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('op', ['roi_align', 'roi_pool'])
def test_any_memory_layout(device: str, mode: str, op: str) -> None:
    features, rois = case(device=device)
    options = (2, mode) if op == 'roi_align' else ()
    expected = getattr(mmcv.ops, op)(features, rois, BINS, SCALE, *options)
    last = features.to(memory_format=torch.channels_last).requires_grad_()
    transposed = rois.T.contiguous().T
    output = getattr(mmcv.ops, op)(last, transposed, BINS, SCALE, *options)
    torch.testing.assert_close(output, expected)
    output.permute(0, 2, 3, 1).square().sum().backward()
    plain = features.clone().requires_grad_()
    getattr(mmcv.ops, op)(plain, rois, BINS, SCALE, *options).square().sum().backward()
    torch.testing.assert_close(last.grad, plain.grad)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_no_rois(device: str, mode: str) -> None:
    features, rois = case(device=device)
    features.requires_grad_()
    aligned = mmcv.ops.roi_align(features, rois[:0], BINS, SCALE, 0, mode)
    pooled = mmcv.ops.roi_pool(features, rois[:0], BINS, SCALE)
    assert aligned.shape == pooled.shape == (0, 3, 3, 2)
    (aligned.sum() + pooled.sum()).backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize(
    ('roi', 'aligned', 'fault'),
    [
        ([2, 0, 0, 4, 4], True, r'rois\[1\] = .* is of no image of the batch of 2'),
        ([-1, 0, 0, 4, 4], False, 'of no image'),
        ([0, 0, math.nan, 4, 4], True, 'is not finite'),
        ([0, 4, 0, 3, 4], True, 'has a negative size; x1 <= x2'),
    ],
)
def test_roi_align_refuses(roi: list[float], aligned: bool, fault: str) -> None:
    """Where the kernel would read beyond the map, and where mmcv's CPU op asserts."""
    features, rois = case()
    rois[1] = torch.tensor(roi)
    with pytest.raises(RuntimeError, match=fault):
        mmcv.ops.roi_align(features, rois, BINS, SCALE, 0, 'avg', aligned)


def test_roi_align_legacy_accepts_a_negative_size() -> None:
    """Without ``aligned`` mmcv makes it one pixel."""
    features, rois = case()
    rois[:, 3:] = rois[:, 1:3] - 5
    one = rois.clone()
    one[:, 3:] = rois[:, 1:3] + 4
    outputs = [mmcv.ops.roi_align(features, boxes, BINS, SCALE, 2, 'avg', False) for boxes in (rois, one)]
    torch.testing.assert_close(*outputs)


def pool(features: Tensor, rois: Tensor) -> Tensor:
    """mmcv's RoIPool as its kernel's comments say."""
    height, width = features.shape[2:]
    output = torch.zeros((len(rois), features.size(1), *BINS), dtype=features.dtype)
    for number, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top, right, bottom = x1 * SCALE, y1 * SCALE, (x2 + 1) * SCALE, (y2 + 1) * SCALE
        if right <= left or bottom <= top:
            continue
        step_y, step_x = (bottom - top) / BINS[0], (right - left) / BINS[1]
        for i in range(BINS[0]):
            rows = [min(max(edge, 0), height) for edge in bin_edges(top, step_y, i)]
            for j in range(BINS[1]):
                columns = [min(max(edge, 0), width) for edge in bin_edges(left, step_x, j)]
                part = features[int(image), :, slice(*rows), slice(*columns)].flatten(1)
                if part.size(1):
                    output[number, :, i, j] = part.amax(1)
    return output


def bin_edges(start: float, step: float, number: int) -> tuple[int, int]:
    return math.floor(number * step + start), math.ceil((number + 1) * step + start)


@pytest.mark.parametrize('device', DEVICES)
def test_roi_pool_is_its_definition(device: str) -> None:
    features, rois = case(torch.float64, device)
    rois = torch.cat([rois, rois.new_tensor([[0, 20, 20, 10, 10]])])
    layer = mmcv.ops.RoIPool(BINS, SCALE)
    torch.testing.assert_close(layer(features, rois).cpu(), pool(features.cpu(), rois.cpu()))
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, rois[:-1]), features, nondet_tol=1e-9, fast_mode=True)


def test_roi_pool_of_equal_pixels_takes_the_first() -> None:
    """Row by row, as mmcv's loop meets them."""
    features = torch.ones((1, 1, 6, 6), requires_grad=True)
    mmcv.ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 5, 5]]), 2, 1.0).sum().backward()
    expected = torch.zeros(6, 6)
    expected[0, 0] = expected[0, 3] = expected[3, 0] = expected[3, 3] = 1
    torch.testing.assert_close(features.grad[0, 0], expected)


@pytest.mark.parametrize('module', [roi_align_plain, roi_pool])
def test_chunks_change_nothing(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = case()

    def run() -> tuple[Tensor, Tensor]:
        return (
            mmcv.ops.roi_align(features, rois, BINS, SCALE, 0, 'max'),
            mmcv.ops.roi_pool(features, rois, BINS, SCALE),
        )

    whole = run()
    monkeypatch.setattr(module, '_CHUNK', 1)
    for expected, actual in zip(whole, run(), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_plain_gradient_of_the_mean_is_torchvisions(aligned: bool, sampling_ratio: int) -> None:
    """What replaces torchvision's backward kernel where CUDA has to be deterministic."""
    features, rois = case(torch.float64)
    features.requires_grad_()
    output = torchvision.ops.roi_align(features, rois, BINS, SCALE, sampling_ratio, aligned)
    upstream = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, features, upstream)
    actual = roi_align_plain.avg_backward(upstream, rois, features.shape, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('device', ACCELERATORS)
def test_roi_align_trains_deterministically(device: str) -> None:
    features, rois = case(device=device)
    grads = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            leaf = features.clone().requires_grad_()
            mmcv.ops.roi_align(leaf, rois, BINS, SCALE, 2).square().sum().backward()
            grads.append(leaf.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*grads)


@pytest.mark.parametrize(('device', 'lowest'), [('cpu', -10000.0), *on_accelerators(torch.finfo(torch.float32).min)])
def test_a_bin_without_samples(device: str, lowest: float) -> None:
    """The largest of no numbers: where mmcv's search begins, which is another number on CUDA."""
    features, _ = case(device=device)
    rois = torch.tensor([[0.0, 8, 8, 8, 8]], device=device)
    assert mmcv.ops.roi_align(features, rois, BINS, SCALE, 0, 'max', True).unique().tolist() == [lowest]
