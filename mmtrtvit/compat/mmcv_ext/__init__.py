"""The stand-in for mmcv 2.1.0's compiled extension ``mmcv._ext``, from torchvision and plain PyTorch.

One file a family of ops. Every function has the name, the arguments and the meaning of mmcv's (offset, order, ties,
what is overwritten and what is added to), on CPU and CUDA, and also takes what mmcv's takes only in part: any memory
layout, any floating-point dtype (halves are computed in float32), no boxes at all. A name that is not here is a
function that raises :class:`MissingOpError` when called: ``mmcv.ops`` asks for all names at its import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmtrtvit.compat.mmcv_ext.bbox import bbox_overlaps
from mmtrtvit.compat.mmcv_ext.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmtrtvit.compat.mmcv_ext.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmtrtvit.compat.mmcv_ext.info import get_compiler_version, get_compiling_cuda_version
from mmtrtvit.compat.mmcv_ext.masked_conv import masked_col2im_forward, masked_im2col_forward
from mmtrtvit.compat.mmcv_ext.missing import MissingOpError, missing_op
from mmtrtvit.compat.mmcv_ext.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from mmtrtvit.compat.mmcv_ext.nms import nms, nms_match
from mmtrtvit.compat.mmcv_ext.psa_mask import psamask_backward, psamask_forward
from mmtrtvit.compat.mmcv_ext.roi_align import roi_align_backward, roi_align_forward
from mmtrtvit.compat.mmcv_ext.roi_pool import roi_pool_backward, roi_pool_forward
from mmtrtvit.compat.mmcv_ext.soft_nms import softnms

__all__ = [
    'MissingOpError',
    'bbox_overlaps',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]


def __getattr__(name: str) -> Callable[..., Any]:
    """The stand-in of an op that is not here.

    Raises:
        AttributeError: ``name`` begins with an underscore, as no op of mmcv does.
    """
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return missing_op(name)
