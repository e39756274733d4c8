"""The retrieval metric of mmpretrain 1.2.0 on numpy >= 2.4, which dropped ``np.in1d``.

``RetrievalRecall`` and ``RetrievalAveragePrecision`` raise ``AttributeError`` at the end of an evaluation. What is
done: that one module, when somebody imports it, sees a numpy that still has the function; numpy itself is not
touched, and mmpretrain is not imported for it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

MODULE = 'mmpretrain.evaluation.metrics.retrieval'


class _NumpyWithIn1d:
    """Numpy and one function more."""

    @staticmethod
    def in1d(ar1: Any, ar2: Any) -> np.ndarray:
        """Whether each element of ``ar1``, flattened, is in ``ar2``: what ``np.in1d`` was defined as."""
        return np.isin(np.asarray(ar1).ravel(), ar2)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _mend(module: ModuleType) -> None:
    vars(module)['np'] = _NumpyWithIn1d()


class _Loader(Loader):
    """Mends the module after its own loader has filled it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _mend(module)


class _Finder(MetaPathFinder):
    """Stands before Python's own finders for one import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)  # ask the others
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Mend the module now if it is loaded, else when it is; nothing on a numpy that has the function."""
    if hasattr(np, 'in1d'):
        return
    if MODULE in sys.modules:
        _mend(sys.modules[MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
