"""YOLOX (arXiv 2107.08430): one class a place, its score times objectness, one NMS over all places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, GraphOptions, UnsupportedModelError, register
from mmtrtvit.deploy.graphs.dense import INVALID, DenseHead, flatten_level, rows_of


@register(DENSE_HEADS, 'YOLOXHead')
class YOLOXHead(DenseHead):
    """YOLOX (arXiv 2107.08430): one class a place, its score times objectness, one NMS over all places."""

    def __init__(self, head: Any, shapes: list[tuple[int, int]], options: GraphOptions) -> None:
        super().__init__(head, shapes, options)
        self.min_size = None  # mmdet's YOLOX reads neither min_bbox_size nor nms_pre

    def rows(self, test_cfg: Any, options: GraphOptions) -> int:
        """Return ``max_dets``: mmdet's YOLOX keeps every detection, whatever ``max_per_img`` says."""
        if options.max_dets is None:
            raise UnsupportedModelError('YOLOX keeps every detection: set max_dets to a number, such as 100')
        return rows_of(options, {})

    def priors(self, head: Any, shapes: list[tuple[int, int]]) -> list[Tensor]:
        """Return points and strides ``(N, 4)`` of each level: x, y, width, height in pixels."""
        return list(head.prior_generator.grid_priors(shapes, device='cpu', with_stride=True))

    def forward(self, outputs: tuple[list[Tensor], ...]) -> tuple[Tensor, ...]:
        """As :meth:`DenseHead.forward`; the third of the outputs is objectness."""
        logits, deltas, objectness = (
            torch.cat([flatten_level(level, columns) for level in levels], 1).float()
            for levels, columns in zip(outputs, (self.num_classes, 4, 1), strict=True)
        )
        best, labels = logits.sigmoid().max(-1)  # (B, N) over all levels
        scores = best * objectness[..., 0].sigmoid()
        priors = torch.cat([self.get_buffer(f'priors_{level}') for level in range(len(outputs[0]))], 1)
        centre = deltas[..., :2] * priors[..., 2:] + priors[..., :2]
        half = deltas[..., 2:].exp() * priors[..., 2:] / 2
        boxes = torch.cat((centre - half, centre + half), -1)  # not clipped, as mmdet's
        found = self.select(boxes, torch.where(scores >= self.score_threshold, scores, INVALID), labels)
        return found.boxes, found.scores, found.labels, found.num_dets, found.exact
