"""What ``mmcv.utils.collect_env`` prints about the extension."""

from __future__ import annotations

import torch
import torchvision


def get_compiler_version() -> str:
    """Says that nothing was compiled, and what computes instead."""
    return f'not compiled (mmtrtvit on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """CUDA version of the PyTorch whose kernels compute, or mmcv's ``not available``."""
    return torch.version.cuda or 'not available'
