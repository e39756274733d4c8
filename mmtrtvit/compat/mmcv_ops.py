"""``mmcv.ops`` without a compiler: who supplies ``mmcv._ext``.

For mmcv-lite 2.1.0, whose ``mmcv.ops`` loads the compiled extension ``mmcv._ext`` that it does not ship.
:mod:`mmtrtvit.compat.mmcv_ext` takes its place in either of two ways, both lazy and both giving the same module:

* the wheel lays ``mmcv/_ext.py`` beside mmcv-lite's modules (source: ``overlay/mmcv/_ext.py``), so that a script
  which imports mmdet before mmtrtvit, or never imports mmtrtvit, has the ops. Python looks for an extension module
  before a source file of the same name: a compiled mmcv wins;
  An editable install has the same through setuptools, whose finder maps ``mmcv._ext`` to that source;
* ``import mmtrtvit`` from a checkout that is merely on the path appends :class:`StandInFinder` to the end of
  ``sys.meta_path``: it is asked only when nobody else has ``mmcv._ext``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: The name under which mmcv looks for its compiled extension.
EXTENSION = 'mmcv._ext'
_STAND_IN = 'mmtrtvit.compat.mmcv_ext'


class StandInLoader(Loader):
    """Loads the stand-in as ``mmcv._ext``."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the stand-in in the place of the empty ``module``; the import system then returns it."""
        sys.modules[module.__name__] = importlib.import_module(_STAND_IN)


class StandInFinder(MetaPathFinder):
    """Finds ``mmcv._ext``, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The stand-in's spec if ``fullname`` is ``mmcv._ext``."""
        return ModuleSpec(fullname, StandInLoader(), origin=_STAND_IN) if fullname == EXTENSION else None


def install() -> None:
    """Append the finder once; imports nothing."""
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())
