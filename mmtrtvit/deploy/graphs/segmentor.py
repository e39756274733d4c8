"""Semantic segmentation: any encoder-decoder of mmseg whose decode head maps features to logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmtrtvit.deploy.graphs.base import (
    MODEL_GRAPHS,
    DeployGraph,
    Float32Island,
    GraphOptions,
    UnsupportedModelError,
    register,
)


class LabelMap(Float32Island):
    """Logits at the canvas's size, or the class of every pixel.

    Args:
        head: The mmseg decode head: its ``align_corners``, ``out_channels``, ``threshold``.
        options: As for the graph.
    """

    def __init__(self, head: Any, options: GraphOptions) -> None:
        super().__init__()
        self.shape = options.shape
        self.align_corners = bool(head.align_corners)
        self.threshold = head.threshold if head.out_channels == 1 else None
        self.as_labels = options.segmentation_output == 'label_map'

    def forward(self, logits: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` logits or ``(B, H, W)`` int64 labels; ``logits`` ``(B, C, h, w)``."""
        logits = functional.interpolate(
            logits.float(), size=self.shape, mode='bilinear', align_corners=self.align_corners
        )
        if not self.as_labels:
            return logits
        if self.threshold is not None:
            return (logits.sigmoid() > self.threshold).long()[:, 0]
        return logits.argmax(1)


@register(MODEL_GRAPHS, 'EncoderDecoder', 'CascadeEncoderDecoder')
class SegmentorGraph(DeployGraph):
    """Backbone, neck, decode head (of a cascade, all heads), resizing, argmax."""

    task = 'segmentation'

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        heads = list(model.decode_head) if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
        for head in heads:
            if not hasattr(head, 'cls_seg') or not hasattr(head, 'align_corners'):
                raise UnsupportedModelError(
                    f'decode head {type(head).__name__} has no deployable graph: heads derived from '
                    "mmseg's BaseDecodeHead (UPerHead, FPNHead, FCNHead, PSPHead, ASPPHead, ...) have"
                )
        self.output_names = (options.segmentation_output,)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.decode_heads = nn.ModuleList(heads)
        self.resize = LabelMap(heads[-1], options)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the label map or the logits."""
        features = self.neck(self.backbone(self.normalize(image)))
        logits = self.decode_heads[0](features)
        for head in list(self.decode_heads)[1:]:
            logits = head(features, logits)
        return (self.resize(logits),)
