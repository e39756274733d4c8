"""RoIAlign (He et al., arXiv 1703.06870): torchvision's kernels for ``avg``, plain PyTorch for ``max``."""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from mmtrtvit.compat.mmcv_ext import roi_align_plain
from mmtrtvit.compat.mmcv_ext.common import as_float32, compute_dtype

#: mmcv's numbers of the two pool modes.
MAX, AVG = 0, 1


@torch.no_grad()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool each RoI to a grid of bins, written into ``output``.

    Args:
        input: Feature map ``(B, C, H, W)``, of any memory layout.
        rois: ``(K, 5)`` as index in the batch, x1, y1, x2, y2 in image pixels.
        output: ``(K, C, aligned_height, aligned_width)``, overwritten.
        argmax_y: With ``max``: row of each bin's best sample, -1 without samples; shaped and typed as ``output``.
        argmax_x: The same for columns.
        aligned_height: Rows of bins.
        aligned_width: Columns of bins.
        spatial_scale: Feature pixels in an image pixel.
        sampling_ratio: Samples of a bin in each direction; 0 for as many as it has pixels.
        pool_mode: :data:`MAX` or :data:`AVG`.
        aligned: Pixel centres lie at half coordinates; otherwise the legacy convention.

    Raises:
        RuntimeError: On CPU: a RoI's index is outside the batch, a number is not finite, or, with ``aligned``,
            its size is negative.
    """
    _check_rois(rois, input.size(0), aligned)
    dtype = compute_dtype(input)
    features, boxes, scale = input.to(dtype).contiguous(), rois.to(dtype).contiguous(), as_float32(spatial_scale)
    bins = (aligned_height, aligned_width)
    if pool_mode == AVG:
        output.copy_(torch.ops.torchvision.roi_align(features, boxes, scale, *bins, sampling_ratio, aligned))
    else:
        best = roi_align_plain.max_forward(features, boxes, bins, scale, sampling_ratio, aligned)
        for buffer, result in zip((output, argmax_y, argmax_x), best, strict=True):
            buffer.copy_(result)


@torch.no_grad()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the feature map's gradient to ``grad_input``, ``(B, C, H, W)``; see :func:`roi_align_forward`."""
    dtype = compute_dtype(grad_output)
    grad, boxes, scale = grad_output.to(dtype).contiguous(), rois.to(dtype).contiguous(), as_float32(spatial_scale)
    bins = (aligned_height, aligned_width)
    if pool_mode == MAX:
        shape = grad_input.shape
        grad_input.add_(roi_align_plain.max_backward(grad, boxes, argmax_y.to(dtype), argmax_x.to(dtype), shape))
    elif grad.is_cuda and torch.are_deterministic_algorithms_enabled():
        # torchvision's kernel adds in any order, and so refuses
        shape = grad_input.shape
        grad_input.add_(roi_align_plain.avg_backward(grad, boxes, shape, scale, sampling_ratio, aligned))
    else:
        grad_input.add_(
            torch.ops.torchvision._roi_align_backward(
                grad, boxes, scale, *bins, *grad_input.shape, sampling_ratio, aligned
            )
        )


def _check_rois(rois: Tensor, batch_size: int, aligned: bool) -> None:
    """What would crash the CPU kernels; on CUDA the check would wait for the device."""
    if rois.device.type != 'cpu' or len(rois) == 0:
        return
    legal = {
        f'is of no image of the batch of {batch_size}': (rois[:, 0] >= 0) & (rois[:, 0] < batch_size),
        'is not finite': rois.isfinite().all(1),
    }
    if aligned:
        legal['has a negative size; x1 <= x2 and y1 <= y2'] = (rois[:, 3:] >= rois[:, 1:3]).all(1)
    for fault, passes in legal.items():
        if not passes.all():
            row = int((~passes).nonzero()[0])
            raise RuntimeError(f'RoIAlign: rois[{row}] = {rois[row].tolist()} {fault}')
