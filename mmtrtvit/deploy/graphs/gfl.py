"""Generalized Focal Loss (arXiv 2006.04388): each distance is the mean of a distribution over whole strides."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmtrtvit.deploy.graphs.base import DENSE_HEADS, GraphOptions, register
from mmtrtvit.deploy.graphs.dense import DenseHead


@register(DENSE_HEADS, 'GFLHead')
class GFLHead(DenseHead):
    """Generalized Focal Loss (arXiv 2006.04388): each distance is the mean of a distribution over whole strides."""

    project: Tensor

    def __init__(self, head: Any, shapes: list[tuple[int, int]], options: GraphOptions) -> None:
        super().__init__(head, shapes, options)
        self.strides = [float(stride[0]) for stride in head.prior_generator.strides]
        self.register_buffer('project', head.integral.project.detach().float())  # (reg_max + 1,)

    def priors(self, head: Any, shapes: list[tuple[int, int]]) -> list[Tensor]:
        """Return the centres of the anchors ``(N, 2)`` of each level."""
        return [head.anchor_center(anchors) for anchors in super().priors(head, shapes)]

    def decode(self, level: int, priors: Tensor, predictions: Tensor) -> Tensor:
        """Return boxes ``(B, K, 4)`` of logits ``(B, K, 4 * (reg_max + 1))``."""
        shares = predictions.float().unflatten(-1, (4, -1)).softmax(-1)  # (B, K, 4, reg_max + 1)
        return super().decode(level, priors, (shares * self.project).sum(-1) * self.strides[level])

    def columns(self) -> tuple[int, int, int]:
        """Return the numbers per prior: class logits, logits of the four distances, none."""
        return self.num_classes, 4 * len(self.project), 1
