"""RTMDet (arXiv 2212.07784): points and distances, no centerness."""

from __future__ import annotations

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'RTMDetHead', 'RTMDetSepBNHead')
class RTMDetHead(DenseHead):
    """RTMDet (arXiv 2212.07784): points and distances, no centerness."""
