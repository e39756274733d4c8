"""Deformable convolution and attention through ``mmcv.ops``, beside plain convolutions, loops and gradients."""

from __future__ import annotations

from typing import Any

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

from tests.devices import DEVICES

#: kernel, stride, padding, dilation, groups, deform groups
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 2), (2, 1), (1, 2), (1, 2), 2, 1),
    ((1, 3), (1, 2), (0, 1), (2, 1), 1, 2),
]
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], int, int]


def layer(kind: type, geometry: Geometry, **options: Any) -> torch.nn.Module:
    kernel, stride, padding, dilation, groups, deform_groups = geometry
    torch.manual_seed(0)
    return kind(4, 6, kernel, stride, padding, dilation, groups, deform_groups, **options)


def tensors(geometry: Geometry, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Input ``(2, 4, 7, 6)``, offsets, mask."""
    kernel, deform_groups = geometry[0], geometry[5]
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip((7, 6), *geometry[:4], strict=True)]
    generator = torch.Generator().manual_seed(1)
    elements = kernel[0] * kernel[1] * deform_groups
    shapes = (2, 4, 7, 6), (2, 2 * elements, *size), (2, elements, *size)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device) for shape in shapes]
    return made[0], made[1] * 2, made[2].sigmoid()


def sample(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear sample of a zero-padded plane."""
    height, width = plane.shape
    value = plane.new_zeros(())
    top, left = int(y // 1), int(x // 1)
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value = value + down * across * plane[row, column]
    return value


def definition(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Deformable convolution as its definition says: offsets are y before x for each kernel element."""
    kernel, stride, padding, dilation, groups, deform_groups = geometry
    rows, columns = offset.shape[2:]
    output = x.new_zeros((len(x), len(weight), rows, columns))
    per_deform, per_group, per_output = x.size(1) // deform_groups, x.size(1) // groups, len(weight) // groups
    for b in range(len(x)):
        for r in range(rows):
            for c in range(columns):
                patch = x.new_zeros((x.size(1), *kernel))
                for channel in range(x.size(1)):
                    for i in range(kernel[0]):
                        for j in range(kernel[1]):
                            element = (channel // per_deform) * kernel[0] * kernel[1] + i * kernel[1] + j
                            y = r * stride[0] - padding[0] + i * dilation[0] + offset[b, 2 * element, r, c].item()
                            z = c * stride[1] - padding[1] + j * dilation[1] + offset[b, 2 * element + 1, r, c].item()
                            value = sample(x[b, channel], y, z)
                            patch[channel, i, j] = value if mask is None else value * mask[b, element, r, c]
                for o in range(len(weight)):
                    group = o // per_output
                    output[b, o, r, c] = (weight[o] * patch[group * per_group : (group + 1) * per_group]).sum()
    return output if bias is None else output + bias[:, None, None]


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv_is_its_definition(geometry: Geometry) -> None:
    x, offset, mask = tensors(geometry, torch.float64, 'cpu')
    first = layer(mmcv.ops.DeformConv2d, geometry).double()
    torch.testing.assert_close(first(x, offset), definition(x, offset, None, first.weight, None, geometry))
    second = layer(mmcv.ops.ModulatedDeformConv2d, geometry).double()
    torch.nn.init.normal_(second.bias)
    expected = definition(x, offset, mask, second.weight, second.bias, geometry)
    torch.testing.assert_close(second(x, offset, mask), expected)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv_gradients(device: str, geometry: Geometry) -> None:
    leaves = [tensor.requires_grad_() for tensor in tensors(geometry, torch.float64, device)]
    first = layer(mmcv.ops.DeformConv2d, geometry).double().to(device)
    convolution = geometry[1:]
    assert torch.autograd.gradcheck(
        lambda x, o, w: mmcv.ops.deform_conv2d(x, o, w, *convolution),
        (leaves[0], leaves[1], first.weight),
        nondet_tol=1e-9,
        fast_mode=True,
    )
    second = layer(mmcv.ops.ModulatedDeformConv2d, geometry).double().to(device)
    for bias in (second.bias, None):
        assert torch.autograd.gradcheck(
            lambda x, o, m, w, b: mmcv.ops.modulated_deform_conv2d(x, o, m, w, b, *convolution),
            (*leaves, second.weight, bias),
            nondet_tol=1e-9,
            fast_mode=True,
        )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_without_offsets_it_is_a_convolution(device: str, geometry: Geometry, dtype: torch.dtype) -> None:
    _, stride, padding, dilation, groups, _ = geometry
    x, offset, mask = tensors(geometry, dtype, device)
    first = layer(mmcv.ops.DeformConv2d, geometry).to(device, dtype)
    second = layer(mmcv.ops.ModulatedDeformConv2d, geometry).to(device, dtype)
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    zero, one = torch.zeros_like(offset), torch.ones_like(mask)
    for kind, output in ((first, first(x, zero)), (second, second(x, zero, one))):
        assert output.dtype == dtype
        bias = kind.bias.float() if kind is second else None
        expected = F.conv2d(x.float(), kind.weight.float(), bias, stride, padding, dilation, groups)
        torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('device', DEVICES)
def test_offsets_of_a_larger_map(device: str) -> None:
    """mmcv's kernel takes an image's first numbers for a map of the output's size; mmdet's DyHead relies on it."""
    geometry = GEOMETRIES[0]
    x, offset, mask = tensors(geometry, torch.float64, device)
    conv = layer(mmcv.ops.ModulatedDeformConv2d, geometry).double().to(device)
    larger = [torch.cat([part.flatten(1), part.flatten(1)], 1).view(*part.shape[:2], 14, 6) for part in (offset, mask)]
    leaves = [tensor.clone().requires_grad_() for tensor in (offset, mask, *larger)]
    expected, found = conv(x, *leaves[:2]), conv(x, *leaves[2:])
    torch.testing.assert_close(found, expected)
    (expected.square().sum() + found.square().sum()).backward()
    for plain, wide in zip(leaves[:2], leaves[2:], strict=True):
        read, unread = wide.grad.flatten(1).chunk(2, 1)
        torch.testing.assert_close(read, plain.grad.flatten(1))
        assert torch.equal(unread, torch.zeros_like(unread))
    with pytest.raises(RuntimeError, match=r'offset or mask is of \(3, 6\) pixels, fewer than the output of \(7, 6\)'):
        conv(x, offset[:, :, :3], mask[:, :, :3])


def test_mmdets_dynamic_head_trains() -> None:
    """Its coarser level is convolved with the offsets of the finer one."""
    from mmdet.models.necks.dyhead import DyHead

    torch.manual_seed(0)
    head = DyHead(16, 16, num_blocks=1)
    maps = [torch.randn(2, 16, size, size) for size in (16, 8, 4)]
    found = head(maps)
    assert [tuple(level.shape[2:]) for level in found] == [(16, 16), (8, 8), (4, 4)]
    sum(level.square().sum() for level in found).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_first_gradient_of_an_untrained_offset_on_the_border() -> None:
    """With zero offsets and padding 1, samples lie at -1: mmcv's derivative there is 0, torchvision's is not."""
    x = torch.ones((1, 1, 3, 3), dtype=torch.float64)
    offset = torch.zeros((1, 18, 3, 3), dtype=torch.float64, requires_grad=True)
    weight = torch.ones((1, 1, 3, 3), dtype=torch.float64)
    mmcv.ops.deform_conv2d(x, offset, weight, 1, 1).sum().backward()
    assert offset.grad is not None
    grads = offset.grad.view(3, 3, 2, 3, 3)
    assert torch.equal(grads[0, :, :, 0], torch.zeros(3, 2, 3))  # the kernel's top row over the map's top row
    assert torch.equal(grads[:, 0, :, :, 0], torch.zeros(3, 2, 3))
    # one row further down, all samples are inside and equal: only the map's far edge has a slope
    assert grads[1, 1, :, :2, :2].abs().sum() == 0
    assert (grads[1, 1, 0, 2] == -1).all()


@pytest.mark.parametrize('device', DEVICES)
def test_packs_train(device: str) -> None:
    """The layers that mmdet's dcn=dict(type='DCN' | 'DCNv2') puts into a ResNet."""
    for kind in (mmcv.ops.DeformConv2dPack, mmcv.ops.ModulatedDeformConv2dPack):
        torch.manual_seed(0)
        pack = kind(4, 6, 3, padding=1).to(device)
        x = torch.randn(2, 4, 5, 3, device=device).to(memory_format=torch.channels_last).requires_grad_()
        pack(x).square().sum().backward()
        for tensor in (x, *pack.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
        assert pack.weight.grad.abs().sum() > 0


def attention(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Three levels, two images, three heads of four channels, some samples outside the map."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[6, 5], [3, 4], [1, 2]], device=device)
    starts = torch.tensor([0, 30, 42], device=device)
    value = torch.randn((2, 44, 3, 4), generator=generator, dtype=torch.float64)
    locations = torch.rand((2, 7, 3, 3, 5, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand((2, 7, 3, 15), generator=generator, dtype=torch.float64).softmax(-1).view(2, 7, 3, 3, 5)
    value, locations, weights = (t.to(dtype).to(device).requires_grad_() for t in (value, locations, weights))
    return value, shapes, starts, locations, weights


@pytest.mark.parametrize('device', DEVICES)
def test_attention_is_mmcvs_reference(device: str) -> None:
    value, shapes, starts, locations, weights = attention(torch.float64, device)
    leaves = value, locations, weights
    expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    actual = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('device', DEVICES)
def test_attention_gradients(device: str) -> None:
    value, shapes, starts, locations, weights = attention(torch.float64, device)
    locations = locations[:, :2].detach().requires_grad_()
    weights = weights[:, :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, place, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, place, w, 64),
        (value, locations, weights),
        nondet_tol=1e-9,
        fast_mode=device != 'cpu',
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_attention_in_half_precision(device: str, dtype: torch.dtype) -> None:
    value, shapes, starts, locations, weights = (
        tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in attention(torch.float32, device)
    )
    expected = multi_scale_deformable_attn_pytorch(value.float(), shapes, locations.float(), weights.float())
    actual = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=2e-2, atol=2e-2)


def test_attention_honours_where_levels_start() -> None:
    """As mmcv's kernel, and unlike its PyTorch version, which takes the levels for adjacent."""
    value, shapes, starts, locations, weights = attention(torch.float64, 'cpu')
    apart = torch.cat([value[:, :30], value.new_full((2, 3, 3, 4), 1e6), value[:, 30:]], 1)
    moved = starts + torch.tensor([0, 3, 3])
    expected = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    actual = MultiScaleDeformableAttnFunction.apply(apart, shapes, moved, locations, weights, 64)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('device', DEVICES)
def test_attention_module(device: str) -> None:
    torch.manual_seed(0)
    module = mmcv.ops.MultiScaleDeformableAttention(32, 4, 2, 3, batch_first=True).to(device).eval()
    shapes = torch.tensor([[4, 5], [2, 3]], device=device)
    starts = torch.tensor([0, 20], device=device)
    query, value = torch.randn(2, 6, 32, device=device), torch.randn(2, 26, 32, device=device, requires_grad=True)
    points = torch.rand(2, 6, 2, 2, device=device)
    output = module(query, value=value, reference_points=points, spatial_shapes=shapes, level_start_index=starts)
    assert output.shape == (2, 6, 32)
    output.square().sum().backward()
    assert value.grad is not None
    assert value.grad.isfinite().all()
    assert value.grad.abs().sum() > 0


@pytest.mark.parametrize('device', DEVICES)
def test_masked_convolution_is_the_convolution_where_the_mask_is(device: str) -> None:
    torch.manual_seed(0)
    conv = mmcv.ops.MaskedConv2d(3, 5, 3, padding=1).to(device).eval()
    x, mask = torch.randn(1, 3, 7, 9).to(device), (torch.rand(1, 7, 9) > 0.6).float().to(device)
    with torch.no_grad():
        expected = F.conv2d(x, conv.weight, conv.bias, padding=1) * mask
        torch.testing.assert_close(conv(x, mask), expected)
        assert torch.equal(conv(x, torch.zeros_like(mask)).cpu(), torch.zeros(1, 5, 7, 9))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size', [(3, 5), (7, 9)])
def test_psa_mask_is_its_definition(device: str, kind: str, size: tuple[int, int]) -> None:
    module = mmcv.ops.PSAMask(kind, size)
    windows = torch.randn(2, size[0] * size[1], 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    values = windows.detach().cpu()
    expected = torch.zeros(2, 20, 20, dtype=torch.float64)  # (image, owner, looked at)
    half = size[0] // 2, size[1] // 2
    for owner in range(20):
        for seen in range(20):
            row, column = seen // 5 - owner // 5 + half[0], seen % 5 - owner % 5 + half[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                expected[:, owner, seen] = values[:, row * size[1] + column, owner // 5, owner % 5]
    if kind == 'collect':
        expected = expected.transpose(1, 2)
    torch.testing.assert_close(module(windows).flatten(2).cpu(), expected)
    assert torch.autograd.gradcheck(module, windows, fast_mode=device != 'cpu')
