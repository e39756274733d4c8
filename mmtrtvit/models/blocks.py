"""The building blocks of TRT-ViT: BottleNeck, the Transformer block and the three MixBlocks.

Every kind has one constructor, ``Kind(in_channels, out_channels, stride, drop_path_rate, options)``, and maps
``(B, C_in, H, W)`` to ``(B, C_out, ceil(H / stride), ceil(W / stride))``, so that a stage is a list of kinds.

What the paper (arXiv 2205.09579) publishes is that the blocks exist, that MixBlockC is a 1x1 convolution, a
Transformer block and a BottleNeck in series, and that its output is the concatenation of both. The rest is a
reconstruction; ``docs/model.md`` marks which is which.

Letters in comments: B batch, C channels, H and W height and width, N = H * W tokens.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.cnn.bricks import DropPath

# ResNet (arXiv 1512.03385, table 1): the 3x3 of a BottleNeck works on a quarter of the block's width.
EXPANSION = 4


def is_integer(value: object) -> bool:
    """Whether an argument is an integer; ``True`` and ``False`` are not, numpy's are."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether an argument is a real number; ``True`` and ``False`` are not, numpy's are."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one backbone share.

    Attributes:
        mix_ratio: R, the share of a MixBlock's output channels that its Transformer branch makes.
        mlp_ratio: Hidden width of the MLP over the width of the Transformer block.
        head_dim: Channels per attention head.
        mix_projection: Whether a MixBlock has a 1x1 convolution + BN between its two branches.
        mix_residual: Whether a shortcut runs around the whole MixBlock.
        norm_cfg: The norm of the convolutional parts, as in mmcv's ``build_norm_layer``.

    Raises:
        ValueError: If a number is out of its range.
    """

    mix_ratio: float = 0.5
    mlp_ratio: float = 3.0
    head_dim: int = 32
    mix_projection: bool = True
    mix_residual: bool = False
    norm_cfg: dict[str, Any] = field(default_factory=lambda: dict(type='BN'))

    def __post_init__(self) -> None:
        if not is_number(self.mix_ratio) or not 0 < self.mix_ratio < 1:
            raise ValueError(f'mix_ratio={self.mix_ratio!r} is not a number between 0 and 1 (both excluded)')
        if not is_number(self.mlp_ratio) or not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f'mlp_ratio={self.mlp_ratio!r} is not a positive number')
        if not is_integer(self.head_dim) or self.head_dim < 1:
            raise ValueError(f'head_dim={self.head_dim!r} is not a positive integer')


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias: a norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution without bias: a norm follows."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def pointwise(in_channels: int, out_channels: int, norm_cfg: dict[str, Any]) -> ConvModule:
    """Return a 1x1 convolution + norm without activation."""
    return ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)


def halve(stride: int) -> nn.Module:
    """Return ResNet-D's pooling for ``stride`` 2, nothing for 1.

    ``ceil_mode`` makes an odd side come out as the 3x3 stride-2 convolution of the same block makes it, and
    padding is not counted, so that a border pixel keeps its value.
    """
    if stride == 1:
        return nn.Identity()
    return nn.AvgPool2d(kernel_size=stride, stride=stride, ceil_mode=True, count_include_pad=False)


def shortcut(in_channels: int, out_channels: int, stride: int, norm_cfg: dict[str, Any]) -> nn.Sequential | None:
    """Return ResNet-D's shortcut (pool, 1x1 convolution, norm), or ``None`` where the identity fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    # Without pooling the convolution is number 0, with it number 1: mmpretrain's ResNetV1d has the same names.
    layers = [conv1x1(in_channels, out_channels), build_norm_layer(norm_cfg, out_channels)[1]]
    return nn.Sequential(*([halve(stride)] if stride > 1 else []), *layers)


class BottleNeck(nn.Module):
    """ResNet-D's bottleneck: 1x1, 3x3 (with the stride), 1x1, each with BN, around them a residual.

    Its parameters carry the names of mmpretrain's ``ResNetV1d``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 4.
        stride: 1 or 2.
        drop_path_rate: Probability to drop the residual branch of a sample in training.
        options: What the blocks of a backbone share.

    Raises:
        ValueError: If ``out_channels`` is not a multiple of 4.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float, options: BlockOptions
    ) -> None:
        super().__init__()
        if out_channels % EXPANSION:
            raise ValueError(f'BottleNeck: {out_channels} output channels are not a multiple of {EXPANSION}')
        middle = out_channels // EXPANSION
        self.conv1 = conv1x1(in_channels, middle)
        self.bn1 = build_norm_layer(options.norm_cfg, middle)[1]
        self.conv2 = conv3x3(middle, middle, stride)
        self.bn2 = build_norm_layer(options.norm_cfg, middle)[1]
        self.conv3 = conv1x1(middle, out_channels)
        self.bn3 = build_norm_layer(options.norm_cfg, out_channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, options.norm_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(self.drop_path(x) + identity)


def is_exporting() -> bool:
    """Whether ``torch.export`` or ``torch.onnx`` is reading the forward pass."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


class Projection(nn.Conv2d):
    """A ``Linear`` of a deployed Transformer block, kept as a 1x1 convolution, for tokens and for maps.

    In an ONNX graph a convolution is one layer with its weights inside; a ``Linear`` is a product, a sum, and in
    TensorRT two constants with a reshape each besides.

    Args:
        linear: Gives the weights; its ``state_dict`` names are kept, the weight gets two axes of length 1.
        row_scale: Multiplies weight and bias of each output channel, ``(C_out,)``. None: 1.
    """

    def __init__(self, linear: nn.Linear, row_scale: torch.Tensor | None = None) -> None:
        super().__init__(linear.in_features, linear.out_features, 1, device=linear.weight.device)
        self.to(linear.weight.dtype)
        assert self.bias is not None  # a Conv2d has one by default
        scale = torch.ones_like(linear.bias) if row_scale is None else row_scale.to(linear.bias)
        with torch.no_grad():
            self.weight.copy_((linear.weight * scale[:, None])[:, :, None, None])
            self.bias.copy_(linear.bias * scale)
        self.requires_grad_(linear.weight.requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens ``(B, N, C_in)`` to ``(B, N, C_out)``, or maps ``(B, C_in, H, W)`` to ``(B, C_out, H, W)``."""
        return super().forward(x) if x.ndim == 4 else F.linear(x, self.weight.flatten(1), self.bias)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, without a position code.

    Query, key and value come from one ``Linear`` (one matrix product instead of three).

    Args:
        channels: Width, a multiple of ``head_dim``.
        head_dim: Channels per head.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = channels // head_dim
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.qkv: nn.Module = nn.Linear(channels, 3 * channels)
        self.proj: nn.Module = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, N, C)`` to ``(B, N, C)``; deployed, also ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        if x.ndim == 4:
            return self._of_map(x)
        batch, tokens, channels = x.shape
        # q, k and v are reshaped and transposed together: fewer nodes in an exported graph than one by one.
        qkv = self.qkv(x).reshape(batch, tokens, 3 * self.num_heads, self.head_dim).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=1)  # each (B, heads, N, head_dim)
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, channels))

    def _of_map(self, x: torch.Tensor) -> torch.Tensor:
        """Attention written out: k is transposed as it comes, and no scale is left (see ``switch_to_deploy``)."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).reshape(batch, 3 * self.num_heads, self.head_dim, height * width)
        q, k, v = qkv.chunk(3, dim=1)  # each (B, heads, head_dim, N)
        x = (q.transpose(2, 3) @ k).softmax(dim=-1) @ v.transpose(2, 3)  # (B, heads, N, head_dim)
        return self.proj(x.transpose(2, 3).reshape(batch, channels, height, width))

    def switch_to_deploy(self) -> None:
        """Make ``Projection`` of the ``Linear`` layers, the scale of the scores inside the weights of the query."""
        if isinstance(self.qkv, nn.Linear) and isinstance(self.proj, nn.Linear):
            rows = torch.ones(3, self.num_heads * self.head_dim)
            rows[0] = self.scale
            self.qkv, self.proj, self.scale = Projection(self.qkv, rows.flatten()), Projection(self.proj), 1.0


class Mlp(nn.Module):
    """Two ``Linear`` with a GELU between them.

    Args:
        channels: Width of input and output.
        hidden_channels: Width in between.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1: nn.Module = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2: nn.Module = nn.Linear(hidden_channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, N, C)`` to ``(B, N, C)``; deployed, also ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        return self.fc2(self.act(self.fc1(x)))

    def switch_to_deploy(self) -> None:
        """Make ``Projection`` of the ``Linear`` layers."""
        if isinstance(self.fc1, nn.Linear) and isinstance(self.fc2, nn.Linear):
            self.fc1, self.fc2 = Projection(self.fc1), Projection(self.fc2)


class TransformerLayer(nn.Module):
    """Attention, then MLP, each behind a LayerNorm and inside a residual, on a feature map.

    The map is turned into tokens once and back once. An export of the deployed form stays on the map, but for the
    LayerNorms: its projections are convolutions then, which saves 26 of 57 layers in TensorRT.

    Args:
        channels: Width of input and output, a multiple of ``options.head_dim``.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        options: What the blocks of a backbone share.

    Raises:
        ValueError: If ``channels`` cannot be divided into heads.
    """

    def __init__(self, channels: int, drop_path_rate: float, options: BlockOptions) -> None:
        super().__init__()
        if channels % options.head_dim:
            raise ValueError(
                f'Transformer: a width of {channels} channels is not a multiple of head_dim={options.head_dim}'
            )
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, options.head_dim)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * options.mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.deployed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        if self.deployed and is_exporting():
            x = x + self.attn(_channel_norm(self.norm1, x))
            return x + self.mlp(_channel_norm(self.norm2, x))
        shape = x.shape
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x.transpose(1, 2).reshape(shape)

    def switch_to_deploy(self) -> None:
        """Turn into the form for deployment, in place; a second call changes nothing."""
        self.attn.switch_to_deploy()
        self.mlp.switch_to_deploy()
        self.deployed = True


def _channel_norm(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """A LayerNorm over the channels of a map ``(B, C, H, W)``."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """The Transformer block alone, at full width: what MixNetV has in its late stages.

    Where the width or the stride changes, ResNet-D's shortcut (pool, 1x1 convolution, BN) comes first.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of ``options.head_dim``.
        stride: 1 or 2.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        options: What the blocks of a backbone share.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float, options: BlockOptions
    ) -> None:
        super().__init__()
        self.embed = shortcut(in_channels, out_channels, stride, options.norm_cfg)
        self.transformer = TransformerLayer(out_channels, drop_path_rate, options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        if self.embed is not None:
            x = self.embed(x)
        return self.transformer(x)


class MixBlock(nn.Module):
    """What the three MixBlocks share: widths, pooling, and the shortcut around the block if it is asked for.

    The Transformer branch ("global") makes ``R * out_channels`` channels, the BottleNeck branch ("local") the
    other ``(1 - R) * out_channels``. A stride of 2 is an average pooling in front of everything.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        options: What the blocks of a backbone share.

    Raises:
        ValueError: If R leaves a branch empty or of a width that cannot be divided into heads.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float, options: BlockOptions
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        global_channels = round(out_channels * options.mix_ratio)
        local_channels = out_channels - global_channels
        fits = global_channels % options.head_dim == 0 and local_channels % EXPANSION == 0
        if not fits or min(global_channels, local_channels) == 0:
            raise ValueError(
                f'{kind}: mix_ratio={options.mix_ratio} splits {out_channels} channels into {global_channels} + '
                f'{local_channels}; the first must be a multiple of head_dim={options.head_dim}, the second of '
                f'{EXPANSION}'
            )
        self.pool = halve(stride)
        self._build(in_channels, global_channels, local_channels, drop_path_rate, options)
        self.shortcut: nn.Module | None = None
        if options.mix_residual:  # the input has been pooled already
            self.shortcut = shortcut(in_channels, out_channels, 1, options.norm_cfg) or nn.Identity()

    def _build(
        self, in_channels: int, global_channels: int, local_channels: int, rate: float, options: BlockOptions
    ) -> None:
        raise NotImplementedError

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map the pooled input ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        x = self.pool(x)
        out = self.mix(x)
        return out if self.shortcut is None else out + self.shortcut(x)


class MixBlockA(MixBlock):
    """Global and local in parallel: ``concat(Transformer(reduce(x)), BottleNeck(project(x)))``."""

    def _build(
        self, in_channels: int, global_channels: int, local_channels: int, rate: float, options: BlockOptions
    ) -> None:
        self.reduce = pointwise(in_channels, global_channels, options.norm_cfg)
        self.transformer = TransformerLayer(global_channels, rate, options)
        local_in = local_channels if options.mix_projection else in_channels
        self.project = pointwise(in_channels, local_in, options.norm_cfg) if options.mix_projection else nn.Identity()
        self.bottleneck = BottleNeck(local_in, local_channels, 1, rate, options)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map the pooled input ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return torch.cat([self.transformer(self.reduce(x)), self.bottleneck(self.project(x))], dim=1)


class MixBlockB(MixBlock):
    """Local, then global: ``x1 = BottleNeck(reduce(x))``, ``concat(x1, Transformer(project(x1)))``."""

    def _build(
        self, in_channels: int, global_channels: int, local_channels: int, rate: float, options: BlockOptions
    ) -> None:
        if not options.mix_projection and global_channels != local_channels:
            raise ValueError(
                f'MixBlockB: without the projection its Transformer gets {local_channels} channels and must make '
                f'{global_channels}; set mix_projection=True or mix_ratio=0.5'
            )
        self.reduce = pointwise(in_channels, local_channels, options.norm_cfg)
        self.bottleneck = BottleNeck(local_channels, local_channels, 1, rate, options)
        self.project = (
            pointwise(local_channels, global_channels, options.norm_cfg) if options.mix_projection else nn.Identity()
        )
        self.transformer = TransformerLayer(global_channels, rate, options)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map the pooled input ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        x1 = self.bottleneck(self.reduce(x))
        return torch.cat([x1, self.transformer(self.project(x1))], dim=1)


class MixBlockC(MixBlock):
    """Global, then local: ``x1 = Transformer(reduce(x))``, ``concat(x1, BottleNeck(project(x1)))``; TRT-ViT's own."""

    def _build(
        self, in_channels: int, global_channels: int, local_channels: int, rate: float, options: BlockOptions
    ) -> None:
        self.reduce = pointwise(in_channels, global_channels, options.norm_cfg)
        self.transformer = TransformerLayer(global_channels, rate, options)
        local_in = local_channels if options.mix_projection else global_channels
        self.project = (
            pointwise(global_channels, local_in, options.norm_cfg) if options.mix_projection else nn.Identity()
        )
        self.bottleneck = BottleNeck(local_in, local_channels, 1, rate, options)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map the pooled input ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        x1 = self.transformer(self.reduce(x))
        return torch.cat([x1, self.bottleneck(self.project(x1))], dim=1)


BLOCK_KINDS: dict[str, type[nn.Module]] = {
    'BottleNeck': BottleNeck,
    'Transformer': TransformerBlock,
    'MixBlockA': MixBlockA,
    'MixBlockB': MixBlockB,
    'MixBlockC': MixBlockC,
}
