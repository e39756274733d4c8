"""A trained model as a module with tensors in and tensors out: one class a head family, one registry."""

from __future__ import annotations

from mmtrtvit.deploy.graphs import (
    atss,
    classifier,
    dense,
    fcos,
    gfl,
    rtmdet,
    segmentor,
    transformer,
    two_stage,
    vfnet,
    yolox,
)
from mmtrtvit.deploy.graphs.base import (
    DENSE_HEADS,
    MODEL_GRAPHS,
    ROI_HEADS,
    DeployGraph,
    GraphOptions,
    UnsupportedModelError,
    build_graph,
)

__all__ = [
    'DENSE_HEADS',
    'MODEL_GRAPHS',
    'ROI_HEADS',
    'DeployGraph',
    'GraphOptions',
    'UnsupportedModelError',
    'atss',
    'build_graph',
    'classifier',
    'dense',
    'fcos',
    'gfl',
    'rtmdet',
    'segmentor',
    'transformer',
    'two_stage',
    'vfnet',
    'yolox',
]
