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
            refuse_unlike_base(head)
        refuse_windows(model.test_cfg, options)
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


def refuse_unlike_base(head: Any) -> None:
    """Refuse heads whose prediction is more than their ``forward``: what they add would be missing from the graph.

    Raises:
        UnsupportedModelError: Not one of mmseg's ``BaseDecodeHead``, or one with a prediction of its own.
    """
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    kind = type(head)
    plain = (BaseDecodeHead.predict, BaseCascadeDecodeHead.predict)
    known = isinstance(head, BaseDecodeHead) and kind.predict in plain
    if not known or kind.predict_by_feat is not BaseDecodeHead.predict_by_feat:
        raise UnsupportedModelError(
            f"decode head {kind.__name__} has no deployable graph: heads that predict as mmseg's BaseDecodeHead does "
            '(UPerHead, FPNHead, FCNHead, PSPHead, ASPPHead, OCRHead, SegformerHead, ...) have. '
            'docs/deployment.md, "Adding a head", shows how to add one'
        )


def refuse_windows(test_cfg: Any, options: GraphOptions) -> None:
    """Refuse a canvas larger than the window that the model is tested with.

    Raises:
        UnsupportedModelError: ``test_cfg.mode='slide'`` would take several windows; names both sizes.
    """
    if test_cfg.get('mode', 'whole') != 'slide':
        return
    height, width = test_cfg.crop_size
    if options.height > height or options.width > width:
        raise UnsupportedModelError(
            f"test_cfg.mode='slide' with crop_size=({height}, {width}): on a canvas of {options.height} x "
            f'{options.width} mmseg averages several windows, the graph computes one. Take a deploy config of '
            f'{height} x {width}, or --cfg-options model.test_cfg.mode=whole if the model is to see the image at once'
        )
