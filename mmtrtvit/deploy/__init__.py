"""From a trained model to an engine.

* :func:`export`: a model to an ONNX graph;
* :func:`build`: a graph to an engine;
* :func:`load`: an engine to detections, label maps or classes.

Imported when asked for, so that ``import mmtrtvit.deploy`` costs nothing and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtrtvit.deploy.inference import load
    from mmtrtvit.deploy.steps import build_engine as build
    from mmtrtvit.deploy.steps import export_model as export

__all__ = ['build', 'export', 'load']

_PUBLIC = {
    'build': ('mmtrtvit.deploy.steps', 'build_engine'),
    'export': ('mmtrtvit.deploy.steps', 'export_model'),
    'load': ('mmtrtvit.deploy.inference', 'load'),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, function = _PUBLIC[name]
    return getattr(import_module(module), function)
