"""ATSS (arXiv 1912.02424) and DDOD (2107.02963): one anchor a place, scores times centerness or IoU."""

from __future__ import annotations

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'ATSSHead', 'DDODHead')
class ATSSHead(DenseHead):
    """ATSS (arXiv 1912.02424) and DDOD (2107.02963): one anchor a place, scores times centerness or IoU."""
