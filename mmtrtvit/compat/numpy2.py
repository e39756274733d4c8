"""Metrics of mmdet 3.3.0 and mmpretrain 1.2.0 on numpy 2, which dropped what they call.

=============================== ==================== ===============================================================
Metric                          Since numpy          What failed
=============================== ==================== ===============================================================
mmpretrain's retrieval metrics  2.4                  ``np.in1d`` is gone
mmdet's ``proposal_fast``       1.24                 ``np.array`` of IoU tables of several sizes is an error
mmdet's YouTube-VIS metric      1.24                 ``np.float`` is gone
=============================== ==================== ===============================================================

They raise at the end of an evaluation. What is done: each module, when somebody imports it, sees a numpy that still
has the function; numpy itself is not touched, and no library is imported for it.
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


def in1d(ar1: Any, ar2: Any) -> np.ndarray:
    """Whether each element of ``ar1``, flattened, is in ``ar2``: what ``np.in1d`` was defined as."""
    return np.isin(np.asarray(ar1).ravel(), ar2)


def array_of_rows(rows: Any, *arguments: Any, **options: Any) -> np.ndarray:
    """``np.array``, and of rows that differ in shape the array of objects that numpy < 1.24 made of them."""
    try:
        return np.array(rows, *arguments, **options)
    except ValueError:  # an inhomogeneous shape
        made = np.empty(len(rows), dtype=object)
        made[:] = rows
        return made


#: Module -> what it finds in numpy besides numpy's own, or in its place.
MENDS: dict[str, dict[str, Any]] = {
    'mmpretrain.evaluation.metrics.retrieval': {'in1d': in1d},
    'mmdet.evaluation.functional.recall': {'array': array_of_rows},
    'mmdet.evaluation.functional.ytviseval': {'float': float},
}


class _Numpy:
    """Numpy with a few names more."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _mend(module: ModuleType) -> None:
    vars(module)['np'] = _Numpy(MENDS[module.__name__])


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

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)  # ask the others
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Mend each module now if it is loaded, else when it is."""
    waiting = {finder.module for finder in sys.meta_path if isinstance(finder, _Finder)}
    for module in MENDS:
        if module in sys.modules:
            _mend(sys.modules[module])
        elif module not in waiting:
            sys.meta_path.insert(0, _Finder(module))
