"""EfficientFormer (arXiv 2206.01191) for any image size.

mmpretrain's, like the authors' classifier, adds attention biases of exactly 7 x 7 cells and so takes 224 x 224 alone.
This one has the same parameters under the same names, takes the weights of mmpretrain's model zoo, and gives the
same result at 224 x 224; elsewhere the biases are stretched to the map, as offsets relative to its sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS

from mmtrtvit.models.peer import Mlp, PeerBackbone, drop_path_rates, settings_of

#: Tables 4 to 6 of the paper's appendix; the last ``attention`` blocks of stage 4 attend, all others pool.
ARCHS: dict[str, dict[str, Any]] = {
    'l1': dict(channels=(48, 96, 224, 448), depths=(3, 2, 6, 4), attention=1),
    'l3': dict(channels=(64, 128, 320, 512), depths=(4, 4, 12, 6), attention=4),
}
MLP_RATIO = 4
#: Of the attention: heads, channels per head of query and key, of value, cells a side of the trained biases.
HEADS, KEY_DIM, VALUE_DIM, RESOLUTION = 8, 32, 128, 7
#: Initial scale of every branch.
LAYER_SCALE = 1e-5
NORM = dict(type='BN')


class LayerScale(nn.Module):
    """A learned factor per channel.

    Args:
        channels: Of the input.
        is_map: Whether the input is ``(B, C, H, W)`` instead of ``(B, N, C)``.
    """

    def __init__(self, channels: int, is_map: bool) -> None:
        super().__init__()
        self.is_map = is_map
        self.weight = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale; the shape stays."""
        return x * (self.weight.view(-1, 1, 1) if self.is_map else self.weight)


class ConvMlp(nn.Module):
    """1x1, BN, GELU, 1x1, BN on a map ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))


class PoolingBlock(nn.Module):
    """The paper's MetaBlock 4D: average pooling mixes the cells, then an MLP, each inside a residual."""

    def __init__(self, channels: int, drop_path_rate: float) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.mlp = ConvMlp(channels)
        self.ls1 = LayerScale(channels, is_map=True)
        self.ls2 = LayerScale(channels, is_map=True)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        x = x + self.drop_path(self.ls1(self.pool(x) - x))
        return x + self.drop_path(self.ls2(self.mlp(x)))


class BiasedAttention(nn.Module):
    """Attention with a learned bias per head, vertical and horizontal distance.

    Args:
        channels: Of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, HEADS * (2 * KEY_DIM + VALUE_DIM))
        self.proj = nn.Linear(HEADS * VALUE_DIM, channels)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, RESOLUTION * RESOLUTION))

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map the tokens ``(B, N, C)`` of a map of ``size`` H x W to the same shape."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, HEADS, -1).transpose(1, 2)
        query, key, value = qkv.split([KEY_DIM, KEY_DIM, VALUE_DIM], dim=-1)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=self._biases(size)[None])
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))

    def _biases(self, size: tuple[int, int]) -> torch.Tensor:
        """The biases ``(heads, N, N)`` of a map, by the distances of its cells relative to its sides."""
        table = self.attention_biases.view(1, HEADS, RESOLUTION, RESOLUTION)
        if size != (RESOLUTION, RESOLUTION):
            table = F.interpolate(table, size, mode='bilinear', align_corners=True)
        rows, columns = (torch.arange(side, device=table.device) for side in size)
        by_row = table[0][:, (rows[:, None] - rows).abs()]  # (heads, H, H, W)
        by_cell = by_row[..., (columns[:, None] - columns).abs()]  # (heads, H, H, W, W)
        return by_cell.permute(0, 1, 3, 2, 4).reshape(HEADS, size[0] * size[1], -1)


class AttentionBlock(nn.Module):
    """The paper's MetaBlock 3D: attention, then an MLP, each behind a LayerNorm and inside a residual."""

    def __init__(self, channels: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.token_mixer = BiasedAttention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, MLP_RATIO * channels)
        self.ls1 = LayerScale(channels, is_map=False)
        self.ls2 = LayerScale(channels, is_map=False)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map the tokens ``(B, N, C)`` of a map of ``size`` H x W to the same shape."""
        x = x + self.drop_path(self.ls1(self.token_mixer(self.norm1(x), size)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def _down(in_channels: int, out_channels: int, activate: bool) -> ConvModule:
    """A 3x3 of stride 2 with BN, and with ReLU in the stem."""
    act = dict(type='ReLU') if activate else None
    return ConvModule(in_channels, out_channels, 3, stride=2, padding=1, bias=True, norm_cfg=NORM, act_cfg=act)


@MODELS.register_module()
class AnySizeEfficientFormer(PeerBackbone):
    """EfficientFormer backbone.

    Args:
        arch: ``'l1'``, ``'l3'``, or a dict with ``channels``, ``depths`` and ``attention``.
        in_channels: Channels of the image.
        out_indices: Stages to return, 0 to 3. Each returned map has a norm of its own.
        last_norm: The norm of stage 4: ``'LN'`` normalizes each cell, as in the authors' classifier, ``'GN'`` the
            whole map, as for the other stages and in mmpretrain's form for dense prediction.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If an argument does not make sense.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'l1',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (3,),
        last_norm: str = 'LN',
        drop_path_rate: float = 0.0,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = settings_of('AnySizeEfficientFormer', arch, ARCHS)
        super().__init__(settings['channels'], out_indices, init_cfg)
        if last_norm not in ('LN', 'GN'):
            raise ValueError(f'AnySizeEfficientFormer: last_norm={last_norm!r} is not LN or GN')
        rates = drop_path_rates('AnySizeEfficientFormer', drop_path_rate, settings['depths'])
        width = self.channels[0]
        self.patch_embed = nn.Sequential(_down(in_channels, width // 2, True), _down(width // 2, width, True))
        self.network = nn.ModuleList()
        last = len(self.channels) - 1
        for index, (channels, depth) in enumerate(zip(self.channels, settings['depths'], strict=True)):
            attention = settings['attention'] if index == last else 0
            stage: list[nn.Module] = [_down(width, channels, False)] if index else []
            stage += [PoolingBlock(channels, next(rates)) for _ in range(depth - attention)]
            if attention:
                stage += [nn.Flatten(2), *[AttentionBlock(channels, next(rates)) for _ in range(attention)]]
            self.network.append(nn.ModuleList(stage))
            width = channels
        self.last_norm = last_norm
        for index in self.out_indices:
            by_cell = index == last and last_norm == 'LN'
            norm = nn.LayerNorm(self.channels[index]) if by_cell else nn.GroupNorm(1, self.channels[index])
            self.add_module(f'norm{index}', norm)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to maps ``(B, C, h, w)`` of strides 4, 8, 16 and 32."""
        x = self.patch_embed(x)
        outputs = []
        for index, stage in enumerate(self.network[: max(self.out_indices) + 1]):
            assert isinstance(stage, nn.ModuleList)
            x = self._stage(stage, x)
            if index in self.out_indices:
                norm = getattr(self, f'norm{index}')
                if isinstance(norm, nn.LayerNorm):
                    outputs.append(norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous())
                else:
                    outputs.append(norm(x))
        return tuple(outputs)

    @staticmethod
    def _stage(blocks: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
        size: tuple[int, int] | None = None
        for block in blocks:
            if isinstance(block, nn.Flatten):
                size = (x.shape[2], x.shape[3])
                x = block(x).transpose(1, 2)  # (B, N, C)
            else:
                x = block(x, size) if size is not None else block(x)
        return x if size is None else x.transpose(1, 2).reshape(x.shape[0], -1, *size)
