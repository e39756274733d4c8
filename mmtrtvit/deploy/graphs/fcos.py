"""FCOS (arXiv 1904.01355) and AutoAssign (2007.03496): points and distances, scores times centerness."""

from __future__ import annotations

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'FCOSHead', 'AutoAssignHead')
class FCOSHead(DenseHead):
    """FCOS (arXiv 1904.01355) and AutoAssign (2007.03496): points and distances, scores times centerness."""
