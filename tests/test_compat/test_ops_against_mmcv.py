"""The stand-in beside mmcv's own C++ and CUDA sources, compiled for the CPU: needs a compiler, so it is slow.

Each case calls one op of both with equal arguments, and compares what is returned and every tensor that was given:
outputs, what was added to, and what had to stay as it was.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import mmcv
import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

from mmtrtvit.compat import mmcv_ext

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / 'mmcv_reference'
CSRC = Path(mmcv.__file__).parent / 'ops' / 'csrc'
SEEDS = range(12)


@pytest.fixture(scope='module')
def mmcv_compiled(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """mmcv's sources as a module."""
    compiler = shutil.which('g++')
    if compiler is None or not (CSRC / 'pytorch' / 'cpu' / 'nms.cpp').is_file():
        pytest.skip("needs g++ and the C++ sources in mmcv's wheel")
    target = tmp_path_factory.mktemp('reference') / 'mmcv_reference.so'
    folders = [HERE / 'shim', CSRC, CSRC / 'common', CSRC / 'pytorch', CSRC / 'common' / 'cuda', *include_paths()]
    command = [compiler, '-std=c++20', '-O1', '-fPIC', '-shared', '-w', '-DTORCH_EXTENSION_NAME=mmcv_reference']
    command += [f'-I{folder}' for folder in (*folders, sysconfig.get_paths()['include'])]
    command += [str(HERE / 'reference.cpp'), *(f'-L{folder}' for folder in library_paths())]
    command += ['-ltorch', '-ltorch_cpu', '-lc10', '-ltorch_python', '-o', str(target)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    loader = importlib.machinery.ExtensionFileLoader('mmcv_reference', str(target))
    spec = importlib.util.spec_from_file_location('mmcv_reference', target, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def compare(reference: ModuleType, op: str, *args: Any, tolerance: float = 0.0, **kwargs: Any) -> Any:
    """Call ``op`` of both, compare everything, and give what the stand-in returned."""
    theirs_args, ours_args = (
        [value.clone() if isinstance(value, Tensor) else value for value in args] for _ in range(2)
    )
    theirs = getattr(reference, op)(*theirs_args, **kwargs)
    ours = getattr(mmcv_ext, op)(*ours_args, **kwargs)
    for expected, actual in zip([*theirs_args, theirs], [*ours_args, ours], strict=True):
        if isinstance(expected, Tensor):
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert actual == expected
    return ours


def boxes_and_scores(seed: int, grid: bool) -> tuple[Tensor, Tensor]:
    """Up to 400 boxes, some without area, some twice; on a ``grid``, overlaps and scores tie often."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 400, (), generator=generator))
    first = torch.rand((count, 2), generator=generator) * 60
    size = torch.rand((count, 2), generator=generator) * 30
    boxes = torch.cat([first, first + size], 1)
    scores = torch.rand(count, generator=generator)
    if grid:
        boxes, scores = (boxes / 4).round() * 4, (scores * 8).round() / 8
    boxes[count // 2 :: 7] = boxes[count // 3]
    return boxes, scores


@pytest.mark.parametrize('grid', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.5, 0.7, 1.0])
def test_nms(mmcv_compiled: ModuleType, grid: bool, offset: int, threshold: float) -> None:
    for seed in SEEDS:
        boxes, scores = boxes_and_scores(seed, grid)
        # mmcv's sort promises no order of equal scores; ours keeps the input's, so give them in that order
        order = scores.argsort(descending=True, stable=True)
        scores = scores[order] if not grid else torch.arange(len(order), 0, -1) / len(order)
        kept = compare(mmcv_compiled, 'nms', boxes[order], scores, iou_threshold=threshold, offset=offset)
        assert 0 < len(kept) <= len(boxes)


@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.7])
def test_nms_match(mmcv_compiled: ModuleType, threshold: float) -> None:
    for seed in SEEDS:
        boxes, scores = boxes_and_scores(seed, grid=True)
        scores = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed)) / len(boxes)
        compare(mmcv_compiled, 'nms_match', torch.cat([boxes, scores[:, None]], 1), iou_threshold=threshold)


@pytest.mark.parametrize('grid', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', [0, 1, 2])
@pytest.mark.parametrize('min_score', [0.0, 0.001, 0.3])
def test_softnms(mmcv_compiled: ModuleType, grid: bool, offset: int, method: int, min_score: float) -> None:
    for seed in SEEDS:
        boxes, scores = boxes_and_scores(seed, grid)
        if method == 2:  # where two boxes without area are mmcv's NaN
            boxes[:, 2:] += 0.5
        dets = torch.full((len(boxes), 5), -7.0)
        compare(
            mmcv_compiled,
            'softnms',
            boxes,
            scores,
            dets,
            iou_threshold=0.3,
            sigma=0.5,
            min_score=min_score,
            method=method,
            offset=offset,
            tolerance=1e-6 if method == 2 else 0.0,  # exp
        )


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('mode', [0, 1])
@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(mmcv_compiled: ModuleType, aligned: bool, mode: int, offset: int) -> None:
    boxes, _ = boxes_and_scores(3, grid=True)
    others = boxes.flip(0)
    ious = torch.full((len(boxes),) if aligned else (len(boxes), len(others)), -7.0)
    compare(mmcv_compiled, 'bbox_overlaps', boxes, others, ious, mode=mode, aligned=aligned, offset=offset)


def features_and_rois(seed: int, dtype: torch.dtype, count: int = 12) -> tuple[Tensor, Tensor]:
    """A map of 11 x 14 at stride 4, and RoIs in, around and outside it."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((2, 3, 11, 14), generator=generator, dtype=dtype)
    first = torch.rand((count, 2), generator=generator, dtype=dtype) * 80 - 20
    size = torch.rand((count, 2), generator=generator, dtype=dtype) * 50
    size[0], size[1] = 0, 0.01
    image = torch.randint(0, 2, (count, 1), generator=generator).to(dtype)
    rois = torch.cat([image, first, first + size], 1)
    rois[2, 1:] = torch.tensor([-2.0, -2, 54, 42], dtype=dtype)
    rois[3, 1:] = torch.tensor([300.0, 300, 340, 320], dtype=dtype)
    rois[4:8, 1:] = rois[4:8, 1:].round()
    return features, rois


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('pool_mode', [0, 1])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
def test_roi_align(
    mmcv_compiled: ModuleType, dtype: torch.dtype, pool_mode: int, aligned: bool, sampling_ratio: int
) -> None:
    options = dict(
        aligned_height=3,
        aligned_width=5,
        spatial_scale=0.25,
        sampling_ratio=sampling_ratio,
        pool_mode=pool_mode,
        aligned=aligned,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for seed in SEEDS:
        features, rois = features_and_rois(seed, dtype)
        output = features.new_full((len(rois), 3, 3, 5), -7)
        places = [torch.full_like(output, -7) if pool_mode == 0 else output.new_zeros(0) for _ in range(2)]
        compare(mmcv_compiled, 'roi_align_forward', features, rois, output, *places, tolerance=tolerance, **options)
        mmcv_compiled.roi_align_forward(features, rois, output, *places, **options)
        grad = torch.randn_like(output)
        grad_input = torch.ones_like(features)
        compare(mmcv_compiled, 'roi_align_backward', grad, rois, *places, grad_input, tolerance=tolerance, **options)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_roi_pool(mmcv_compiled: ModuleType, dtype: torch.dtype) -> None:
    options = dict(pooled_height=3, pooled_width=4, spatial_scale=0.25)
    for seed in SEEDS:
        features, rois = features_and_rois(seed, dtype)
        features = (features * 3).round()  # equal pixels
        rois[5, 3:] = rois[5, 1:3] - 9  # of negative size: left as it is
        output = features.new_full((len(rois), 3, 3, 4), -7)
        argmax = torch.full(output.shape, 5, dtype=torch.int32)
        compare(mmcv_compiled, 'roi_pool_forward', features, rois, output, argmax, **options)
        mmcv_compiled.roi_pool_forward(features, rois, output, argmax, **options)
        grad, grad_input = torch.randn_like(output), torch.ones_like(features)
        compare(mmcv_compiled, 'roi_pool_backward', grad, rois, argmax, grad_input, tolerance=1e-5, **options)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_focal_losses(
    mmcv_compiled: ModuleType, dtype: torch.dtype, weighted: bool, gamma: float, alpha: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((200, 7), generator=generator, dtype=dtype) * 8
    weight = torch.rand(7, generator=generator, dtype=dtype) if weighted else logits.new_empty(0)
    # without class weights mmcv also defines the background target
    target = torch.randint(0, 7 if weighted else 8, (200,), generator=generator)
    options = dict(gamma=gamma, alpha=alpha, tolerance=1e-6)
    buffer = torch.full_like(logits, -7)
    compare(mmcv_compiled, 'sigmoid_focal_loss_forward', logits, target, weight, buffer, **options)
    compare(mmcv_compiled, 'sigmoid_focal_loss_backward', logits, target, weight, buffer, **options)
    softmax, target = logits.softmax(1), target.clamp(max=6)
    if gamma == 0:  # mmcv's derivative is 0 * inf where a probability is 1
        softmax = softmax.clamp(max=0.999)
    if not weighted:
        target[::9] = -1
    row = buffer[:, 0].clone()
    compare(mmcv_compiled, 'softmax_focal_loss_forward', softmax, target, weight, row, **options)
    compare(mmcv_compiled, 'softmax_focal_loss_backward', softmax, target, weight, row, buffer, **options)


CONVOLUTIONS = [
    # kernel, stride, padding, dilation, groups, deform groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 2), (2, 1), (1, 2), (1, 2), 2, 1),
    ((1, 3), (1, 2), (0, 1), (2, 1), 1, 4),
    ((2, 2), (2, 3), (1, 0), (2, 2), 4, 2),
]


def convolution(seed: int, case: tuple[Any, ...], still: bool) -> dict[str, Tensor]:
    """Tensors of a deformable convolution; ``still`` ones sample whole pixels, some exactly outside the map."""
    kernel, stride, padding, dilation, groups, deform_groups = case
    generator = torch.Generator().manual_seed(seed)
    size = (9, 8)
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    elements = deform_groups * kernel[0] * kernel[1]
    tensors = {
        'input': (4, 8, *size),
        'weight': (12, 8 // groups, *kernel),
        'bias': (12,),
        'offset': (4, 2 * elements, *out),
        'mask': (4, elements, *out),
        'grad': (4, 12, *out),
    }
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in tensors.items()}
    made['offset'] = made['offset'].round() if still else made['offset'] * 3
    return made


@pytest.mark.parametrize('case', CONVOLUTIONS)
@pytest.mark.parametrize('still', [False, True])
def test_deform_conv(mmcv_compiled: ModuleType, case: tuple[Any, ...], still: bool) -> None:
    kernel, stride, padding, dilation, groups, deform_groups = case
    options = dict(kW=kernel[1], kH=kernel[0], dW=stride[1], dH=stride[0], padW=padding[1], padH=padding[0])
    options |= dict(dilationW=dilation[1], dilationH=dilation[0], group=groups, deformable_group=deform_groups)
    options |= dict(im2col_step=2, tolerance=1e-10)
    for seed in range(3):
        t = convolution(seed, case, still)
        empty = t['input'].new_empty(0)
        output = torch.full_like(t['grad'], -7)
        compare(
            mmcv_compiled, 'deform_conv_forward', t['input'], t['weight'], t['offset'], output, empty, empty, **options
        )
        buffers = torch.ones_like(t['input']), torch.full_like(t['offset'], -7)
        compare(
            mmcv_compiled,
            'deform_conv_backward_input',
            t['input'],
            t['offset'],
            t['grad'],
            *buffers,
            t['weight'],
            empty,
            **options,
        )
        compare(
            mmcv_compiled,
            'deform_conv_backward_parameters',
            t['input'],
            t['offset'],
            t['grad'],
            torch.ones_like(t['weight']),
            empty,
            empty,
            scale=0.5,
            **options,
        )


@pytest.mark.parametrize('case', CONVOLUTIONS)
@pytest.mark.parametrize('still', [False, True])
@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('larger', [False, True])
def test_modulated_deform_conv(
    mmcv_compiled: ModuleType, case: tuple[Any, ...], still: bool, with_bias: bool, larger: bool
) -> None:
    kernel, stride, padding, dilation, groups, deform_groups = case
    options = dict(kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride[0], stride_w=stride[1])
    options |= dict(pad_h=padding[0], pad_w=padding[1], dilation_h=dilation[0], dilation_w=dilation[1])
    options |= dict(group=groups, deformable_group=deform_groups, with_bias=with_bias, tolerance=1e-10)
    for seed in range(3):
        t = convolution(seed, case, still)
        empty = t['input'].new_empty(0)
        bias = t['bias'] if with_bias else empty
        if larger:  # offsets of another map, as mmdet's DyHead gives them
            t['offset'], t['mask'] = (
                torch.nn.functional.pad(t[key], (1, 2, 0, 3), value=0.3) for key in ('offset', 'mask')
            )
        inputs = t['input'], t['weight'], bias, empty, t['offset'], t['mask']
        compare(
            mmcv_compiled, 'modulated_deform_conv_forward', *inputs, torch.full_like(t['grad'], -7), empty, **options
        )
        grads = [torch.ones_like(tensor) for tensor in (t['input'], t['weight'], bias, t['offset'], t['mask'])]
        compare(mmcv_compiled, 'modulated_deform_conv_backward', *inputs, empty, *grads, t['grad'], **options)


def test_ms_deform_attn(mmcv_compiled: ModuleType) -> None:
    shapes = torch.tensor([[6, 5], [3, 4], [1, 2]])
    starts = torch.tensor([0, 30, 42])
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        value = torch.randn((2, 44, 3, 4), generator=generator, dtype=torch.float64)
        locations = torch.rand((2, 7, 3, 3, 5, 2), generator=generator, dtype=torch.float64) * 1.6 - 0.3
        locations[0, 0, 0, 1] = torch.tensor([-0.125, 0.5], dtype=torch.float64)  # one pixel left of the second map
        weights = torch.rand((2, 7, 3, 3, 5), generator=generator, dtype=torch.float64)
        inputs = value, shapes, starts, locations, weights
        options = dict(im2col_step=64, tolerance=1e-6)  # mmcv's kernel floors as float32
        output = compare(mmcv_compiled, 'ms_deform_attn_forward', *inputs, **options)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        buffers = torch.ones_like(value), torch.zeros_like(locations), torch.zeros_like(weights)
        compare(mmcv_compiled, 'ms_deform_attn_backward', *inputs, grad, *buffers, **options)


def test_masked_convolution(mmcv_compiled: ModuleType) -> None:
    image = torch.randn(1, 3, 7, 9)
    rows, columns = (torch.rand(7, 9) > 0.5).nonzero().T.contiguous()
    options = dict(kernel_h=3, kernel_w=2, pad_h=1, pad_w=1)
    col = torch.full((18, len(rows)), -7.0)
    compare(mmcv_compiled, 'masked_im2col_forward', image, rows, columns, col, **options)
    target = torch.full((1, 5, 7, 9), -7.0)
    options = dict(height=7, width=9, channels=5)
    compare(mmcv_compiled, 'masked_col2im_forward', torch.randn(5, len(rows)), rows, columns, target, **options)


@pytest.mark.parametrize('psa_type', [0, 1])
@pytest.mark.parametrize('mask', [(3, 5), (13, 17), (1, 1)])
def test_psa_mask(mmcv_compiled: ModuleType, psa_type: int, mask: tuple[int, int]) -> None:
    half = (mask[0] - 1) // 2, (mask[1] - 1) // 2
    options = dict(psa_type=psa_type, num_=2, h_feature=6, w_feature=8, h_mask=mask[0], w_mask=mask[1])
    options |= dict(half_h_mask=half[0], half_w_mask=half[1])
    windows = torch.randn(2, mask[0] * mask[1], 6, 8)
    spread = torch.full((2, 48, 6, 8), -7.0)
    compare(mmcv_compiled, 'psamask_forward', windows, spread, **options)
    compare(mmcv_compiled, 'psamask_backward', torch.randn_like(spread), torch.full_like(windows, -7), **options)
