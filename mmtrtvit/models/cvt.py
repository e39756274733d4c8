"""CvT (arXiv 2103.15808): convolutions make the tokens and the queries, keys and values, for any image size.

Written from the paper: the token embedding is section 3.1, the projection section 3.2, the sizes table 2. Its three
stages end at stride 16, so that it classifies only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS

from mmtrtvit.models.peer import LayerNorm2d, Mlp, PeerBackbone, drop_path_rates, settings_of

#: Table 2 of the paper.
ARCHS: dict[str, dict[str, Any]] = {
    '13': dict(channels=(64, 192, 384), depths=(1, 2, 10), heads=(1, 3, 6)),
    '21': dict(channels=(64, 192, 384), depths=(1, 4, 16), heads=(1, 3, 6)),
}
MLP_RATIO = 4
#: Stride of the projections of keys and values.
KEY_STRIDE = 2


class ConvProjection(nn.Module):
    """A depthwise 3x3 with BN on the map, then a Linear layer per token; the class token has the Linear layer only."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, image: torch.Tensor, token: torch.Tensor | None) -> torch.Tensor:
        """Map ``(B, C, H, W)`` and the class token ``(B, 1, C)`` to tokens ``(B, N, C)``, the class token first."""
        tokens = self.norm(self.conv(image)).flatten(2).transpose(1, 2)
        return self.proj(tokens if token is None else torch.cat([token, tokens], dim=1))


class CvTBlock(nn.Module):
    """Attention over convolutional projections, then MLP, each behind a LayerNorm and inside a residual.

    Args:
        channels: Of the tokens.
        heads: Attention heads.
        drop_path_rate: Stochastic depth.
    """

    def __init__(self, channels: int, heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = channels**-0.5  # of the whole width, as the authors have it, not of a head
        self.norm1 = nn.LayerNorm(channels)
        self.query = ConvProjection(channels, 1)
        self.key = ConvProjection(channels, KEY_STRIDE)
        self.value = ConvProjection(channels, KEY_STRIDE)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map tokens ``(B, H * W, C)``, or one more with the class token first, to the same shape."""
        batch, tokens, channels = x.shape
        height, width = size
        y = self.norm1(x)
        token = y[:, :1] if tokens > height * width else None
        image = y[:, tokens - height * width :].transpose(1, 2).reshape(batch, channels, height, width)
        query, key, value = (
            part(image, token).reshape(batch, -1, self.heads, channels // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        x = x + self.drop_path(self.proj(y.transpose(1, 2).reshape(batch, tokens, channels)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class CvT(PeerBackbone):
    """CvT backbone for classification.

    Args:
        arch: ``'13'``, ``'21'``, or a dict with ``channels``, ``depths`` and ``heads`` of the stages.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If an argument does not make sense.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '13',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = settings_of('CvT', arch, ARCHS)
        super().__init__(settings['channels'], (-1,), init_cfg)
        rates = drop_path_rates('CvT', drop_path_rate, settings['depths'])
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        before = in_channels
        for index, (channels, depth, heads) in enumerate(
            zip(self.channels, settings['depths'], settings['heads'], strict=True)
        ):
            side, stride, padding = (3, 2, 1) if index else (7, 4, 2)
            conv = nn.Conv2d(before, channels, side, stride=stride, padding=padding)
            self.embeds.append(nn.Sequential(conv, LayerNorm2d(channels)))
            self.stages.append(nn.ModuleList(CvTBlock(channels, heads, next(rates)) for _ in range(depth)))
            before = channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, before))
        self.norm = nn.LayerNorm(before)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Map images ``(B, in_channels, H, W)`` to the class token ``(B, C)``."""
        for index, (embed, stage) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x = embed(x)
            size = (x.shape[2], x.shape[3])
            tokens = x.flatten(2).transpose(1, 2)
            if index == len(self.stages) - 1:
                tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                tokens = block(tokens, size)
            if index < len(self.stages) - 1:
                x = tokens.transpose(1, 2).reshape(len(x), -1, *size)
        return (self.norm(tokens[:, 0]),)
