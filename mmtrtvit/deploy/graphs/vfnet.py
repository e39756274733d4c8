"""VarifocalNet (arXiv 2008.13367): points and distances, refined where a star of points around the box looks."""

from __future__ import annotations

from typing import Any

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, GraphOptions, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'VFNetHead')
class VFNetHead(DenseHead):
    """VarifocalNet (arXiv 2008.13367): points and distances, refined where a star of points around the box looks."""

    def __init__(self, head: Any, shapes: list[tuple[int, int]], options: GraphOptions) -> None:
        super().__init__(head, shapes, options)
        # mmdet keeps the star as a plain tensor: copied from the host in each call, which no CUDA graph can hold
        star = head.__dict__.pop('dcn_base_offset', None)
        if star is not None:  # else it is a buffer since an earlier graph of this model
            head.register_buffer('dcn_base_offset', star.float(), persistent=False)
