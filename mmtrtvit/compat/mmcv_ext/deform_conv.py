"""Deformable convolution, v1 (Dai et al., arXiv 1703.06211) and v2 (Zhu et al., arXiv 1811.11168).

torchvision's kernels descend from the same code as mmcv's and order the offsets alike: y before x for each kernel
element. They differ where a sample lies exactly on the border outside the map, which zero offsets with padding do:
there mmcv's derivative to the offset is 0.
"""

# ruff: noqa: N803  the arguments' names are mmcv's, which passes them by keyword

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor

from mmtrtvit.compat.mmcv_ext.common import compute_dtype


@dataclass(frozen=True)
class Geometry:
    """A convolution's numbers, (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


@dataclass(frozen=True)
class _Grads:
    """Gradients of the inputs of a deformable convolution, in its computing dtype."""

    input: Tensor
    weight: Tensor
    offset: Tensor
    mask: Tensor
    bias: Tensor


@torch.no_grad()
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the deformable convolution into ``output``.

    Args:
        input: ``(B, C_in, H, W)``.
        weight: ``(C_out, C_in / group, kH, kW)``.
        offset: ``(B, 2 * deformable_group * kH * kW, H_out, W_out)``, feature pixels.
        output: ``(B, C_out, H_out, W_out)``, overwritten.
        columns: Unused; mmcv's working memory.
        ones: Unused.
        kW: Kernel width.
        kH: Kernel height.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Horizontal padding.
        padH: Vertical padding.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Groups of channels of the convolution.
        deformable_group: Groups of input channels with offsets of their own.
        im2col_step: Unused; images that mmcv's kernel takes at once.
    """
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


@torch.no_grad()
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the input's gradient to ``gradInput`` and write the offset's into ``gradOffset``."""
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput.add_(grads.input)
    gradOffset.copy_(grads.offset)


@torch.no_grad()
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the weight's gradient to ``gradWeight``."""
    geometry = Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    # the weight's own values do not enter its gradient
    grads = _backward(gradOutput, input, gradWeight, offset, None, geometry)
    gradWeight.add_(grads.weight, alpha=scale)


@torch.no_grad()
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated deformable convolution into ``output``.

    Args are those of :func:`deform_conv_forward`, and a ``mask`` of ``(B, deformable_group * kernel_h * kernel_w,
    H_out, W_out)`` that multiplies the samples, and a ``bias`` ``(C_out,)`` that counts only ``with_bias``. Offset and
    mask may be of a larger map than the output: see :func:`_as_read`.

    Raises:
        RuntimeError: They are of a smaller one.
    """
    geometry = Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group)
    offset, mask = (_as_read(samples, output.shape[2:]) for samples in (offset, mask))
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


@torch.no_grad()
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to the gradients of input, weight and, ``with_bias``, bias; write those of offset and mask."""
    geometry = Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group)
    offset, mask = (_as_read(samples, grad_output.shape[2:]) for samples in (offset, mask))
    grads = _backward(grad_output, input, weight, offset, mask, geometry)
    grad_input.add_(grads.input)
    grad_weight.add_(grads.weight)
    _write_as_read(grad_offset, grads.offset)
    _write_as_read(grad_mask, grads.mask)
    if with_bias:
        grad_bias.add_(grads.bias)


def _as_read(samples: Tensor, size: torch.Size) -> Tensor:
    """Offsets or masks as mmcv's kernel for them reads them, ``(B, N, *size)``.

    It takes an image's numbers for a map of the output's size, whatever the size they came in: its first ones count.
    mmdet's DyHead relies on it, where it gives a coarser level the offsets of the finer one.
    """
    if samples.shape[2:] == size:
        return samples
    numbers, needed = samples.flatten(1), samples.size(1) * size.numel()
    if numbers.size(1) < needed:
        raise RuntimeError(
            f'modulated_deform_conv: offset or mask is of {tuple(samples.shape[2:])} pixels, fewer than the output of '
            f'{tuple(size)}'
        )
    return numbers[:, :needed].view(*samples.shape[:2], *size)


def _write_as_read(buffer: Tensor, grads: Tensor) -> None:
    """Write the gradients of the numbers that :func:`_as_read` took; the others of ``buffer`` stay."""
    numbers = buffer.flatten(1).clone()
    numbers[:, : grads[0].numel()] = grads.flatten(1)
    buffer.copy_(numbers.view(buffer.shape))


def _forward(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    dtype = compute_dtype(input)
    return torchvision.ops.deform_conv2d(
        input.to(dtype).contiguous(),
        offset.to(dtype).contiguous(),
        weight.to(dtype).contiguous(),
        None if bias is None else bias.to(dtype),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        None if mask is None else mask.to(dtype).contiguous(),
    )


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry
) -> _Grads:
    dtype = compute_dtype(input)
    factors = input.new_ones((len(input), 1)) if mask is None else mask
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        *(tensor.to(dtype).contiguous() for tensor in (grad, input, weight, offset, factors)),
        input.new_zeros(weight.size(0), dtype=dtype),
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
        geometry.groups,
        geometry.deform_groups,
        mask is not None,
    )
    grads = _Grads(*gradients)
    grads.offset[~_inside(offset.to(dtype), weight.shape[2:], input.shape[2:], geometry)] = 0
    return grads


def _inside(offset: Tensor, kernel: torch.Size, size: torch.Size, geometry: Geometry) -> Tensor:
    """Mask, shaped as ``offset``, of the samples that touch the map."""
    batch, _, rows, columns = offset.shape
    shifts = offset.view(batch, geometry.deform_groups, *kernel, 2, rows, columns)
    y = _origin(0, kernel[0], rows, offset.device, geometry)[:, None, :, None] + shifts[:, :, :, :, 0]
    x = _origin(1, kernel[1], columns, offset.device, geometry)[:, None, :] + shifts[:, :, :, :, 1]
    inside = (y > -1) & (y < size[0]) & (x > -1) & (x < size[1])
    return inside[:, :, :, :, None].expand(shifts.shape).reshape(offset.shape)


def _origin(axis: int, kernel: int, bins: int, device: torch.device, geometry: Geometry) -> Tensor:
    """Where each kernel element samples each output pixel without offset, ``(kernel, bins)``."""
    element = torch.arange(kernel, device=device)[:, None] * geometry.dilation[axis]
    return torch.arange(bins, device=device) * geometry.stride[axis] - geometry.padding[axis] + element
