"""VanillaNet (arXiv 2305.12972): a stem and a handful of 1x1 convolutions, no shortcut, no attention.

Written from the paper: the network is its table 1, the activation its section 3.2. This is the form it is deployed in
(one convolution a layer) with the BatchNorm layers not yet folded; the paper's deep training strategy, which trains
two convolutions a layer and merges them, is not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS

from mmtrtvit.models.peer import PeerBackbone, settings_of

#: Widths and strides of the layers behind the stem. VanillaNet-N has N layers with the stem and the classifier.
ARCHS: dict[str, dict[str, Any]] = {
    '9': dict(stem=512, channels=(512, 1024, 2048, 2048, 2048, 4096, 4096), strides=(1, 2, 2, 1, 1, 2, 1)),
    '10': dict(stem=512, channels=(512, 1024, 2048, 2048, 2048, 2048, 4096, 4096), strides=(1, 2, 2, 1, 1, 1, 2, 1)),
}
#: The activation sums ReLU over a neighbourhood of 2 * 3 + 1 cells a side.
NEIGHBOURS = 3


class SeriesActivation(nn.Module):
    """The series-informed activation: ReLU, a weighted sum over the neighbourhood of each channel, BN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        side = 2 * NEIGHBOURS + 1
        self.sum = nn.Conv2d(channels, channels, side, padding=NEIGHBOURS, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return self.norm(self.sum(F.relu(x)))


class VanillaLayer(nn.Sequential):
    """A 1x1 convolution, BN, max-pooling by the stride, the activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        pool: list[nn.Module] = [nn.MaxPool2d(stride)] if stride > 1 else []
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), *pool,
            SeriesActivation(out_channels),
        )  # fmt: skip


@MODELS.register_module()
class VanillaNet(PeerBackbone):
    """VanillaNet backbone; a stage is what lies between two poolings.

    Args:
        arch: ``'9'``, ``'10'``, or a dict with ``stem``, ``channels`` and ``strides``.
        in_channels: Channels of the image.
        out_indices: Stages to return, 0 to 3.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If an argument does not make sense.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '9',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (3,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = settings_of('VanillaNet', arch, ARCHS)
        stem, widths, strides = (settings[key] for key in ('stem', 'channels', 'strides'))
        stages: list[list[nn.Module]] = [[]]
        stage_channels = [stem]
        width = stem
        for channels, stride in zip(widths, strides, strict=True):
            if stride > 1:
                stages.append([])
                stage_channels.append(channels)
            stages[-1].append(VanillaLayer(width, channels, stride))
            stage_channels[-1] = width = channels
        super().__init__(stage_channels, out_indices, init_cfg)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, 4, stride=4, bias=False), nn.BatchNorm2d(stem), SeriesActivation(stem)
        )
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to maps ``(B, C, h, w)`` of strides 4, 8, 16 and 32.

        A side that is no multiple of the stride is cut, as strides without padding do.
        """
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages[: max(self.out_indices) + 1]):
            x = stage(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
