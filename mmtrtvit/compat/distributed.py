"""Several training processes on a machine without a GPU.

For mmengine 0.10.7, whose launchers call ``torch.cuda.set_device`` whatever the backend, whose runner gives
``DistributedDataParallel`` a GPU's number for a model on the CPU, and whose users' configs all ask for ``nccl``: on a
machine without CUDA each of them fails. So does PyTorch's ``SyncBatchNorm``, which mmseg's configs have: it computes on
GPUs only. What is done: there, and only there, the device is left alone, ``gloo`` carries the gradients, and SyncBN
becomes BN, each process with the statistics of its own images, as mmengine does for a single process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import mmengine.dist.utils as dist_utils
import torch
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm


def _on_cpu_too(launch: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(launch)
    def wrapped(backend: str, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            launch(backend, **kwargs)
            return
        with mock.patch.object(torch.cuda, 'set_device'):
            launch('gloo' if backend == 'nccl' else backend, **kwargs)

    wrapped._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    return wrapped


def _init_on_cpu_too(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def wrapped(self: MMDistributedDataParallel, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            kwargs.pop('device_ids', None)
            module = revert_sync_batchnorm(module)
        init(self, module, *args, **kwargs)

    wrapped._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    return wrapped


def install() -> None:
    """Wrap mmengine's three launchers and its ``MMDistributedDataParallel``."""
    if not getattr(MMDistributedDataParallel.__init__, '_mmtrtvit', False):
        MMDistributedDataParallel.__init__ = _init_on_cpu_too(MMDistributedDataParallel.__init__)
    for name in ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm'):
        launch = getattr(dist_utils, name)
        if not getattr(launch, '_mmtrtvit', False):
            setattr(dist_utils, name, _on_cpu_too(launch))
