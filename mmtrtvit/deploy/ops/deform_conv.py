"""Deformable convolution as one GridSample and a 1x1 convolution: no backend but ONNX Runtime has a node of it.

Letters: B batch, C channels in, O channels out, G groups of offsets, K places of the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """The operator ``torchvision::deform_conv2d`` (arXiv 1703.06211, with ``mask`` 1811.11168), argument by argument.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(O, C / groups, kernel_h, kernel_w)``.
        offset: ``(B, G * K * 2, H', W')``, y before x, in pixels of ``x``.
        mask: ``(B, G * K, H', W')``; looked at with ``use_mask`` only.
        bias: ``(O,)``.
        stride_h: Of the places of the output.
        stride_w: Likewise.
        pad_h: Zeros around ``x``; a place beyond them is 0 too.
        pad_w: Likewise.
        dilation_h: Between the places of the kernel.
        dilation_w: Likewise.
        groups: Of channels, as in a convolution.
        offset_groups: G.
        use_mask: Multiply the samples by ``mask``.

    Returns:
        ``(B, O, H', W')``.
    """
    batch, channels, height, width = x.shape
    out_h, out_w = offset.shape[-2:]
    kernel_h, kernel_w = weight.shape[-2:]
    places = kernel_h * kernel_w
    y = _grid(out_h, stride_h, pad_h, kernel_h, dilation_h, x.device)[:, None, :, None]  # (kernel_h, 1, H', 1)
    x_ = _grid(out_w, stride_w, pad_w, kernel_w, dilation_w, x.device)[None, :, None, :]  # (1, kernel_w, 1, W')
    shape = (kernel_h, kernel_w, out_h, out_w)
    base = torch.stack((y.expand(shape), x_.expand(shape)), 2).reshape(places, 2, out_h, out_w)
    at = offset.float().view(batch * offset_groups, places, 2, out_h, out_w) + base
    # pixel p lies at (2 p + 1) / size - 1 of GridSample's -1 .. 1, which needs x before y
    grid = torch.stack(((2 * at[:, :, 1] + 1) / width - 1, (2 * at[:, :, 0] + 1) / height - 1), -1)
    sampled = F.grid_sample(
        x.reshape(batch * offset_groups, channels // offset_groups, height, width).float(),
        grid.view(batch * offset_groups, places * out_h, out_w, 2),
        mode='bilinear',
        padding_mode='zeros',
        align_corners=False,
    ).to(x.dtype)  # (B * G, C / G, K * H', W')
    if use_mask:
        sampled = sampled * mask.reshape(batch * offset_groups, 1, places * out_h, out_w)
    sampled = sampled.view(batch, channels * places, out_h, out_w)
    return F.conv2d(sampled, weight.flatten(1)[..., None, None], bias, groups=groups)


def _grid(out: int, stride: int, pad: int, kernel: int, dilation: int, device: torch.device) -> Tensor:
    """Where a kernel looks along one axis: ``(kernel, out)``, pixels."""
    start = torch.arange(out, device=device, dtype=torch.float32) * stride - pad
    return start + (torch.arange(kernel, device=device, dtype=torch.float32) * dilation)[:, None]
