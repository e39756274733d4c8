"""What stands for the ops that have no stand-in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch

#: Beginning of an op's name -> what OpenMMLab's users can configure instead.
ALTERNATIVES = {
    'sync_bn': "norm_cfg=dict(type='SyncBN'), PyTorch's own, instead of 'MMSyncBN'",
    'carafe': "an upsample_cfg of type 'nearest', 'bilinear' or 'deconv' instead of 'carafe'",
    'deform_roi_pool': "roi_layer=dict(type='RoIAlign', ...)",
    'prroi_pool': "roi_layer=dict(type='RoIAlign', ...)",
    'modulated_deform_roi_pool': "roi_layer=dict(type='RoIAlign', ...)",
}


class MissingOpError(NotImplementedError):
    """An op of mmcv's compiled extension was called that mmtrtvit does not supply."""


@functools.cache
def missing_op(name: str) -> Callable[..., NoReturn]:
    """A function that stands for op ``name`` until it is called, and then raises :class:`MissingOpError`.

    ``mmcv.ops`` demands every name when it is imported, whether or not a model uses it.
    """

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        raise MissingOpError(_explanation(name))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f'Raises: mmcv op {name} is not supplied by mmtrtvit.'
    return call


def _explanation(name: str) -> str:
    alternative = next((text for prefix, text in ALTERNATIVES.items() if name.startswith(prefix)), None)
    return (
        f"mmcv op '{name}' needs mmcv's compiled extension: mmcv-lite has none, and mmtrtvit's stand-in for it "
        f'does not include this op.'
        + (f'\n  Without a compiler: use {alternative}.' if alternative else '')
        + f'\n  With a C++ compiler: pip uninstall mmcv-lite, then build mmcv 2.1.0 from source against the '
        f'installed torch {torch.__version__} (MMCV_WITH_OPS=1 pip install --no-build-isolation <mmcv source>; '
        f"setuptools < 82, and for CUDA ops FORCE_CUDA=1 and a toolkit of torch's CUDA version). torch >= 2.14's "
        f"headers need C++20: change '-std=c++17' to '-std=c++20' in mmcv's setup.py first. "
        f'mmtrtvit then leaves the compiled ops alone.'
    )
