"""Engines behind one interface: ONNX Runtime, TensorRT, TensorRT-RTX and PyTorch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module

from mmtrtvit.deploy.backends.base import (
    Availability,
    Backend,
    BackendError,
    BuildOptions,
    BuildReport,
    LayerCost,
    LoadOptions,
    Progress,
    Runner,
    TensorSpec,
)
from mmtrtvit.deploy.backends.card import (
    EngineCard,
    card_path,
    read_card,
    sha256_of,
    verify_card,
    verify_digest,
    write_card,
)

__all__ = [
    'Availability',
    'Backend',
    'BackendError',
    'BuildOptions',
    'BuildReport',
    'EngineCard',
    'LayerCost',
    'LoadOptions',
    'Progress',
    'Runner',
    'TensorSpec',
    'backend_names',
    'card_path',
    'get_backend',
    'read_card',
    'sha256_of',
    'verify_card',
    'verify_digest',
    'write_card',
]

#: Name -> module under this package and class in it. Imported when asked for: each drags in its library.
_BACKENDS = {
    'onnxruntime': ('onnxruntime', 'OnnxRuntimeBackend'),
    'tensorrt': ('tensorrt', 'TensorRTBackend'),
    'tensorrt-rtx': ('tensorrt', 'TensorRTRTXBackend'),
    'pytorch': ('pytorch', 'PyTorchBackend'),
    'torch-compile': ('pytorch', 'TorchCompileBackend'),
    'cudagraph': ('pytorch', 'CudaGraphBackend'),
}


def backend_names() -> tuple[str, ...]:
    """The names that :func:`get_backend` takes."""
    return tuple(_BACKENDS)


def get_backend(name: str) -> Backend:
    """The backend called ``name``; its library need not be installed.

    Raises:
        BackendError: There is none of that name; lists those that are.
    """
    if name not in _BACKENDS:
        near = difflib.get_close_matches(name, _BACKENDS, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else '.'
        raise BackendError(f'backend={name!r} is unknown{hint} There are: {", ".join(_BACKENDS)}')
    module, cls = _BACKENDS[name]
    factory: Callable[[], Backend] = getattr(import_module(f'{__name__}.{module}'), cls)
    return factory()
