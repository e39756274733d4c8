"""CSWin Transformer (arXiv 2107.00652): self-attention in horizontal and vertical stripes, for any image size.

Written from the paper: the stripes are section 3.2, the position code section 3.3, the stem and the merges section
3.1, the sizes table 1. Half of the heads attend within vertical stripes, the other half within horizontal ones; the
last stage, whose 7x7 map at 224x224 is a single stripe, attends globally.

Letters in comments: B batch, C channels, H and W height and width, S stripes, N tokens of a stripe.
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

#: Table 1 of the paper; all have stripes of widths 1, 2, 7, 7 and MLPs of ratio 4.
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': dict(channels=(64, 128, 256, 512), depths=(1, 2, 21, 1), heads=(2, 4, 8, 16)),
    'small': dict(channels=(64, 128, 256, 512), depths=(2, 4, 32, 2), heads=(2, 4, 8, 16)),
}
STRIPE_WIDTHS = (1, 2, 7, 7)
MLP_RATIO = 4
#: Added to the score of a key that is padding: its weight is 0 in fp16 too.
MASKED = -1e4


class StripeAttention(nn.Module):
    """Attention within stripes, plus the locally-enhanced position code of the values (LePE).

    Args:
        channels: Of its share of query, key and value.
        heads: Attention heads.
        stripe: Height and width of a stripe in cells; None runs over the whole side.
    """

    def __init__(self, channels: int, heads: int, stripe: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.heads = heads
        self.stripe = stripe
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Map query, key and value ``(B, H, W, 3 * C)`` to ``(B, H, W, C)``.

        A side that is no multiple of the stripe is padded, and the padding is no key of any query.
        """
        batch, height, width, channels = qkv.shape
        rows, columns = self.stripe[0] or height, self.stripe[1] or width
        below, right = -height % rows, -width % columns
        if below or right:
            qkv = F.pad(qkv, (0, 0, 0, right, 0, below))
        down, across = (height + below) // rows, (width + right) // columns
        stripes, tokens, head_dim = batch * down * across, rows * columns, channels // (3 * self.heads)
        # (B, down, rows, across, columns, 3 * heads, head_dim) -> (3 * heads, B, down, across, rows, columns, head_dim)
        qkv = qkv.reshape(batch, down, rows, across, columns, 3 * self.heads, head_dim).permute(5, 0, 1, 3, 2, 4, 6)
        query, key, value = (
            part.reshape(self.heads, stripes, tokens, head_dim) for part in qkv.split(self.heads, dim=0)
        )
        mask = self._mask(batch, (height, width), (down, across), (rows, columns), qkv) if below or right else None
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (heads, B * S, N, head_dim)
        image = value.permute(1, 0, 3, 2).reshape(stripes, self.heads * head_dim, rows, columns)
        position = self.position(image).reshape(batch, down, across, self.heads, head_dim, rows, columns)
        x = x.reshape(self.heads, batch, down, across, rows, columns, head_dim).permute(1, 2, 4, 3, 5, 0, 6)
        x = x + position.permute(0, 1, 5, 2, 6, 3, 4)  # (B, down, rows, across, columns, heads, head_dim)
        return x.reshape(batch, down * rows, across * columns, -1)[:, :height, :width]

    @staticmethod
    def _mask(
        batch: int, size: tuple[int, int], stripes: tuple[int, int], stripe: tuple[int, int], like: torch.Tensor
    ) -> torch.Tensor:
        """The scores' addend ``(B * S, 1, N)``: 0 for the map's cells, far below for padding."""
        (down, across), (rows, columns) = stripes, stripe
        inside_y = torch.arange(down * rows, device=like.device) < size[0]
        inside_x = torch.arange(across * columns, device=like.device) < size[1]
        inside = inside_y.view(down, 1, rows, 1) & inside_x.view(1, across, 1, columns)
        addend = torch.where(inside, 0.0, MASKED).to(like.dtype)
        return addend.reshape(1, down * across, 1, rows * columns).repeat(batch, 1, 1, 1).flatten(0, 1)


class CSWinBlock(nn.Module):
    """Cross-shaped attention, then MLP, each behind a LayerNorm and inside a residual, on ``(B, H, W, C)``.

    Args:
        channels: Of input and output.
        heads: Attention heads of both directions together.
        width: Of the stripes, in cells; None attends globally.
        drop_path_rate: Stochastic depth.
    """

    def __init__(self, channels: int, heads: int, width: int | None, drop_path_rate: float) -> None:
        super().__init__()
        stripes: list[tuple[int | None, int | None]] = (
            [(None, None)] if width is None else [(None, width), (width, None)]
        )
        parts = len(stripes)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attns = nn.ModuleList(StripeAttention(channels // parts, heads // parts, stripe) for stripe in stripes)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, H, W, C)`` to the same shape."""
        # the output channels of the Linear layer are, for each direction in turn, those of query, key and value
        parts = self.qkv(self.norm1(x)).chunk(len(self.attns), dim=-1)
        mixed = [attn(part) for attn, part in zip(self.attns, parts, strict=True)]
        x = x + self.drop_path(self.proj(torch.cat(mixed, dim=-1)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class CSWin(PeerBackbone):
    """CSWin Transformer backbone.

    Args:
        arch: ``'tiny'``, ``'small'``, or a dict with ``channels``, ``depths`` and ``heads`` of the four stages.
        in_channels: Channels of the image.
        out_indices: Stages to return, 0 to 3. Each returned map has a LayerNorm of its own.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If an argument does not make sense.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        in_channels: int = 3,
        out_indices: int | tuple[int, ...] = (3,),
        drop_path_rate: float = 0.0,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = settings_of('CSWin', arch, ARCHS)
        super().__init__(settings['channels'], out_indices, init_cfg)
        rates = drop_path_rates('CSWin', drop_path_rate, settings['depths'])
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, self.channels[0], 7, stride=4, padding=2), LayerNorm2d(self.channels[0])
        )
        self.stages = nn.ModuleList()
        self.merges = nn.ModuleList()
        for index, (channels, depth, heads) in enumerate(
            zip(self.channels, settings['depths'], settings['heads'], strict=True)
        ):
            width = STRIPE_WIDTHS[index] if index < len(self.channels) - 1 else None
            self.stages.append(nn.Sequential(*[CSWinBlock(channels, heads, width, next(rates)) for _ in range(depth)]))
            if index:
                before = self.channels[index - 1]
                self.merges.append(
                    nn.Sequential(nn.Conv2d(before, channels, 3, stride=2, padding=1), LayerNorm2d(channels))
                )
        for index in self.out_indices:
            self.add_module(f'norm{index}', LayerNorm2d(self.channels[index]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to maps ``(B, C, h, w)`` of strides 4, 8, 16 and 32."""
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages[: max(self.out_indices) + 1]):
            if index:
                x = self.merges[index - 1](x)
            x = stage(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if index in self.out_indices:
                outputs.append(getattr(self, f'norm{index}')(x).contiguous())
        return tuple(outputs)
