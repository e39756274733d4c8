"""Columns of a convolution at chosen places only, for guided anchoring's ``MaskedConv2d`` at test time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the padded patches of image ``im``, ``(1, C, H, W)``, at ``M`` places into ``col``.

    Args:
        im: One image.
        mask_h_idx: ``(M,)`` rows of the convolution's output.
        mask_w_idx: ``(M,)`` columns.
        col: ``(C * kernel_h * kernel_w, M)``, overwritten.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        pad_h: Vertical zero padding.
        pad_w: Horizontal zero padding.
    """
    # mmcv reads beyond the far padding as zeros; a kernel more of it keeps every index legal
    padded = F.pad(im[0], (pad_w, pad_w + kernel_w, pad_h, pad_h + kernel_h))
    rows = mask_h_idx[None] + torch.arange(kernel_h, device=im.device)[:, None]  # (kernel_h, M)
    columns = mask_w_idx[None] + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns[None]].reshape(col.shape))


@torch.no_grad()
def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write ``col``, ``(channels, M)``, to the ``M`` places of ``im``, ``(1, channels, height, width)``."""
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im.dtype)
