"""A classifier's pooling behind backbones that return a list of maps, as mmdet's PVT and PVTv2 do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS


@MODELS.register_module()
class LastMapPooling(BaseModule):
    """Average the last map over its cells; mmpretrain's own pooling refuses lists."""

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor]:
        """Map ``[..., (B, C, H, W)]`` to one ``(B, C)``."""
        return (maps[-1].mean(dim=(2, 3)),)
