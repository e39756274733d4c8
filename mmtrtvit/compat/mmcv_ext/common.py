"""Number formats shared by the ops."""

from __future__ import annotations

import torch
from torch import Tensor


def as_float32(value: float) -> float:
    """A Python float as mmcv's C++ sees it: its ops take ``float``, not ``double``.

    It decides ties: an IoU of exactly 0.7 is not above mmcv's threshold 0.7, but is above the double 0.7's
    neighbour that a 64-bit comparison would use.
    """
    return float(torch.tensor(value, dtype=torch.float32))


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' dtypes, at least float32: half precision is only a storage format here."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
