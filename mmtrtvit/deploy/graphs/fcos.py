"""FCOS (arXiv 1904.01355): points and distances, scores times centerness."""

from __future__ import annotations

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'FCOSHead')
class FCOSHead(DenseHead):
    """FCOS (arXiv 1904.01355): points and distances, scores times centerness."""
