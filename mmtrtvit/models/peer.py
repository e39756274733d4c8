"""What the peers' backbones written here have in common: stages to return, stochastic depth, norms on maps.

The peers are what TRT-ViT is compared with. Those that OpenMMLab or timm have come from there; these files hold the
others, written from their papers, for any image size. ``docs/peers.md`` has the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule

from mmtrtvit.models.blocks import is_integer, is_number

#: Convolutions as ResNet's, Linear layers as ViT's.
DEFAULT_INIT: tuple[dict[str, Any], ...] = (
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm', 'LayerNorm']),
    dict(type='TruncNormal', std=0.02, layer='Linear'),
)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each cell of a map ``(B, C, H, W)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize; the shape stays."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear, GELU, Linear, on ``(..., C)``.

    Args:
        channels: Of input and output.
        hidden_channels: In between.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., C)`` to the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class PeerBackbone(BaseModule):
    """A backbone of several stages, of which some are returned.

    Args:
        channels: Output channels of each stage.
        out_indices: Stages to return, negative ones from the end.
        init_cfg: As in mmengine; without one, :data:`DEFAULT_INIT`.

    Raises:
        ValueError: If ``out_indices`` names a stage that is not there.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_indices: int | Sequence[int],
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg if init_cfg is not None else list(DEFAULT_INIT))
        name, count = type(self).__name__, len(channels)
        given = tuple(out_indices) if isinstance(out_indices, (list, tuple, range)) else (out_indices,)
        if not given or not all(is_integer(index) and -count <= index < count for index in given):
            raise ValueError(f'{name}: out_indices={out_indices!r} is not one or some of the stages 0 to {count - 1}')
        self.channels = tuple(channels)
        self.out_indices = tuple(sorted({index % count for index in given}))

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        return tuple(self.channels[index] for index in self.out_indices)


def settings_of(owner: str, arch: str | Mapping[str, Any], archs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return an architecture by its name, or a given one if it has the keys of the named ones.

    Raises:
        ValueError: There is none of that name, or a key is missing or too much; says what there is.
    """
    if isinstance(arch, Mapping):
        keys = set(next(iter(archs.values())))
        if set(arch) != keys:
            raise ValueError(f'{owner}: arch has the keys {sorted(arch)}, not {sorted(keys)}')
        return dict(arch)
    if arch not in archs:
        raise ValueError(f'{owner}: arch={arch!r} is not one of {", ".join(archs)}, nor a dict')
    return archs[arch]


def drop_path_rates(owner: str, rate: float, depths: Sequence[int]) -> Iterator[float]:
    """Stochastic depth of each block in order, rising linearly from 0 to ``rate``.

    Raises:
        ValueError: If ``rate`` is no number in [0, 1).
    """
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f'{owner}: drop_path_rate={rate!r} is not a number in [0, 1)')
    depth = sum(depths)
    return iter([rate * index / max(depth - 1, 1) for index in range(depth)])
