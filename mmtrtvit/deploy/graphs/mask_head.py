"""mmdet's ``FCNMaskHead`` in the form that a graph needs: for each detection the mask of its own class, and no other.

Two identities make it cheaper than the head itself, with the same values up to rounding:

* Of the last 1x1 convolution only the row of the detection's class is needed: its weights are picked before the
  product, one row of 80 instead of the mask afterwards.
* A transposed convolution whose stride is its kernel's size writes each output pixel from one input pixel. It is a 1x1
  convolution to ``s * s`` times the channels, and a shuffle of pixels at the end; the ReLU and the 1x1 convolution
  that follow do not see where a pixel lies, so the shuffle is left to the one channel of the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmtrtvit.deploy.graphs.base import Float32Island
from mmtrtvit.deploy.ops.masks import select_class_masks


class MaskHead(nn.Module):
    """The mask logits of each detection's class; those of all classes where a head is not built as described above.

    Args:
        head: ``FCNMaskHead``.

    Attributes:
        one_class: Whether there is one channel, the detection's own.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.one_class = _is_plain(head.conv_logits) and _is_spreading(head.upsample)
        if not self.one_class:
            self.head = head
            return
        self.class_agnostic = bool(head.class_agnostic)
        self.convs, self.relu, self.conv_logits = head.convs, head.relu, head.conv_logits
        self.scale = int(head.scale_factor)
        self.spread = spread_pixels(head.upsample)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return ``(N, 1, h * s, w * s)`` or ``(N, classes, h * s, w * s)`` logits.

        Args:
            x: RoI features ``(N, C, h, w)``, N = B * M.
            labels: ``(B, M)``, -1 past the last detection.
        """
        if not self.one_class:
            return self.head(x)
        for conv in self.convs:
            x = conv(x)
        x = self.relu(self.spread(x))
        count, _, height, width = x.shape
        row = (torch.zeros_like(labels) if self.class_agnostic else labels.clamp(min=0)).flatten()
        weight = self.conv_logits.weight.flatten(1).index_select(0, row)[:, None]  # (N, 1, C)
        logits = weight @ x.reshape(count, weight.shape[2], self.scale**2 * height * width)
        if self.conv_logits.bias is not None:
            logits = logits + self.conv_logits.bias.index_select(0, row)[:, None, None]
        logits = logits.reshape(count, self.scale, self.scale, height, width).permute(0, 3, 1, 4, 2)
        return logits.reshape(count, 1, height * self.scale, width * self.scale)


class SelectMasks(Float32Island):
    """The mask of each detection's class.

    Args:
        class_agnostic: Whether the logits have one channel for all classes.
    """

    def __init__(self, class_agnostic: bool) -> None:
        super().__init__()
        self.class_agnostic = class_agnostic

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return probabilities ``(B, M, h, w)``, 0 past the last detection; ``logits`` ``(B * M, C, h, w)``."""
        logits = logits.float().reshape(*labels.shape, *logits.shape[1:])
        real = labels >= 0
        index = torch.zeros_like(labels) if self.class_agnostic else torch.where(real, labels, 0)
        return select_class_masks(logits, index) * real[..., None, None]


def spread_pixels(deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """Return the 1x1 convolution that computes what ``deconv`` does, the pixels of a patch in channels.

    Channel ``(c * s + i) * s + j`` at ``(y, x)`` is channel ``c`` of ``deconv`` at ``(y * s + i, x * s + j)``.
    """
    patch = deconv.kernel_size[0] * deconv.kernel_size[1]
    conv = nn.Conv2d(deconv.in_channels, deconv.out_channels * patch, 1, bias=deconv.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(deconv.weight.flatten(1).transpose(0, 1)[..., None, None])
        if conv.bias is not None and deconv.bias is not None:
            conv.bias.copy_(deconv.bias.repeat_interleave(patch))
    return conv.to(deconv.weight)


def _is_spreading(layer: Any) -> bool:
    """Whether each output pixel of a layer comes from one input pixel by a transposed convolution."""
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.kernel_size == layer.stride
        and layer.kernel_size[0] == layer.kernel_size[1]
        and tuple(layer.padding) == tuple(layer.output_padding) == (0, 0)
        and (layer.groups, tuple(layer.dilation)) == (1, (1, 1))
    )


def _is_plain(layer: Any) -> bool:
    """Whether a layer is a 1x1 convolution and no subclass that computes something else."""
    return type(layer).__name__ == 'Conv2d' and layer.kernel_size == (1, 1) and layer.groups == 1
