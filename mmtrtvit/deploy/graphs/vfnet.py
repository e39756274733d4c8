"""VarifocalNet (arXiv 2008.13367): points and distances, refined where a star of points around the box looks."""

from __future__ import annotations

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'VFNetHead')
class VFNetHead(DenseHead):
    """VarifocalNet (arXiv 2008.13367): points and distances, refined where a star of points around the box looks."""
