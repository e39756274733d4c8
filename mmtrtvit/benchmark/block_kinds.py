"""The blocks that are measured alone: TRT-ViT's own five and those of its peers, at any width and stage.

A peer's block comes from the library that its whole model comes from, with the settings of the published model at
that stage (spatial reduction, window, MLP ratio), but at the width asked for: blocks are compared at equal width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn

from mmtrtvit.apis.errors import UserError, near
from mmtrtvit.models import ARCHS
from mmtrtvit.models.blocks import BLOCK_KINDS, BlockOptions, TransformerLayer

__all__ = ['KINDS', 'OWN_KINDS', 'STRIDES', 'WIDTHS', 'Kind', 'Stack', 'find_kind', 'stack_of']

#: Stride of each stage's feature map, pixels.
STRIDES = (4, 8, 16, 32)
#: Channels of each stage: TRT-ViT-C's, for all kinds.
WIDTHS: tuple[int, ...] = tuple(ARCHS['c']['channels'])
OWN_KINDS = tuple(BLOCK_KINDS)

#: Of PVT (arXiv 2102.12122, table 1) and both Twins (arXiv 2104.13840, tables 1 and 2): side of the cell that is one
#: key, by stage.
REDUCTIONS = (8, 4, 2, 1)
#: Of PVT and Twins-PCPVT: MLP ratio by stage.
PVT_MLP = (8, 8, 4, 4)
#: Of PVTv2 (arXiv 2106.13797, table 1).
PVTV2_MLP = (8, 8, 4, 4)
#: Channels per head: Twins-SVT, Swin, CSWin, Next-ViT and ours; PVT and Twins-PCPVT have 64.
HEAD, PVT_HEAD = 32, 64
#: Of Swin and Twins-SVT: side of a window.
WINDOW = 7


@dataclass(frozen=True)
class Kind:
    """A kind of block.

    Attributes:
        name: As the command line and the rows have it.
        about: What one block is, in words.
        layout: What it works on: ``map`` ``(B, C, H, W)``, ``nhwc`` ``(B, H, W, C)``, or ``tokens``: ``(B, H * W, C)``
            with ``(H, W)`` beside.
        make: Width and stage (0 to 3) to the modules of one block, in their order.
        multiple: What its width must be a multiple of, for its heads to have the channels they should.
        scores: Width, stage and tokens to the entries of its largest attention matrix, of one image.
    """

    name: str
    about: str
    layout: str
    make: Callable[[int, int], list[nn.Module]]
    multiple: int = 1
    scores: Callable[[int, int, int], float] = lambda width, stage, tokens: 0.0


class Stack(nn.Module):
    """Blocks of one kind in a row, between two feature maps.

    The layout is changed once before the first and once behind the last block, as a stage of the model does.

    Args:
        blocks: The modules.
        layout: See :class:`Kind`.
    """

    def __init__(self, blocks: list[nn.Module], layout: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.layout = layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        shape, size = x.shape, (int(x.shape[2]), int(x.shape[3]))
        if self.layout == 'nhwc':
            x = x.permute(0, 2, 3, 1)
        elif self.layout == 'tokens':
            x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, size) if self.layout == 'tokens' else block(x)
        if self.layout == 'nhwc':
            return x.permute(0, 3, 1, 2)
        return x.transpose(1, 2).reshape(shape) if self.layout == 'tokens' else x


def stack_of(kind: str, width: int, stage: int, depth: int) -> Stack:
    """Build blocks of a kind as they are deployed: BatchNorm folded, in eval mode, random weights.

    Args:
        kind: One of :data:`KINDS`.
        width: Channels in, between and out.
        stage: 0 to 3.
        depth: Number of blocks.

    Raises:
        UserError: The kind is unknown or its library not installed, or it has no block of that width.
    """
    found = find_kind(kind)
    if width % found.multiple:
        raise UserError(f'{kind}: no block of {width} channels: they are no multiple of {found.multiple}')
    try:
        blocks = [module for _ in range(depth) for module in found.make(width, stage)]
    except ImportError as error:
        raise UserError(f"{kind}: {error}; pip install 'mmtrtvit[benchmark]'") from error
    except (AssertionError, ValueError) as error:
        raise UserError(f'{kind}: no block of {width} channels: {error}') from error
    stack = Stack(blocks, found.layout).eval()  # BatchNorm is folded with its running statistics
    fuse_conv_bn(stack)
    for module in list(stack.modules()):
        if isinstance(module, TransformerLayer):
            module.switch_to_deploy()
    return stack


def find_kind(name: str) -> Kind:
    """The kind of that name, in whatever case.

    Raises:
        UserError: There is none; names those that are near and all there are.
    """
    for known, kind in KINDS.items():
        if known.lower() == name.lower():
            return kind
    raise UserError(f'--kinds {name}: no such block{near(name, KINDS, 0.5)}; there are {", ".join(KINDS)}')


def _own(name: str) -> Kind:
    share = {'BottleNeck': 0.0, 'Transformer': 1.0}.get(name, BlockOptions().mix_ratio)
    about = {
        'BottleNeck': "ResNet's: 1x1, 3x3, 1x1",
        'Transformer': 'attention over all tokens, MLP of ratio 3',
        'MixBlockA': 'Transformer and BottleNeck in parallel',
        'MixBlockB': 'BottleNeck, then Transformer',
        'MixBlockC': "Transformer, then BottleNeck: TRT-ViT's",
    }
    return Kind(
        name,
        about.get(name, ''),
        'map',
        lambda width, stage: [BLOCK_KINDS[name](width, width, 1, 0.0, BlockOptions())],
        4 if name == 'BottleNeck' else HEAD,
        lambda width, stage, tokens: share * width / HEAD * tokens**2,
    )


def _reduced(head: int) -> Callable[[int, int, int], float]:
    return lambda width, stage, tokens: width / head * tokens**2 / REDUCTIONS[stage] ** 2


def _twins_svt(width: int, stage: int) -> list[nn.Module]:
    from mmpretrain.models.backbones.twins import GSAEncoderLayer, LSAEncoderLayer

    return [
        LSAEncoderLayer(width, width // HEAD, 4 * width, window_size=WINDOW),
        GSAEncoderLayer(width, width // HEAD, 4 * width, sr_ratio=REDUCTIONS[stage]),
    ]


def _twins_pcpvt(width: int, stage: int) -> list[nn.Module]:
    from mmpretrain.models.backbones.twins import GSAEncoderLayer

    return [GSAEncoderLayer(width, width // PVT_HEAD, PVT_MLP[stage] * width, sr_ratio=REDUCTIONS[stage])]


def _pvt(width: int, stage: int) -> list[nn.Module]:
    from mmdet.models.backbones.pvt import PVTEncoderLayer

    return [PVTEncoderLayer(width, width // PVT_HEAD, PVT_MLP[stage] * width, sr_ratio=REDUCTIONS[stage])]


def _pvtv2(width: int, stage: int) -> list[nn.Module]:
    from mmdet.models.backbones.pvt import PVTEncoderLayer

    hidden = PVTV2_MLP[stage] * width
    return [PVTEncoderLayer(width, width // PVT_HEAD, hidden, sr_ratio=REDUCTIONS[stage], use_conv_ffn=True)]


def _swin(width: int, stage: int) -> list[nn.Module]:
    from mmpretrain.models.backbones.swin_transformer import SwinBlock

    return [SwinBlock(width, width // HEAD, WINDOW, shift, pad_small_map=True) for shift in (False, True)]


def _cswin(width: int, stage: int) -> list[nn.Module]:
    from mmtrtvit.models.cswin import STRIPE_WIDTHS, CSWinBlock

    return [CSWinBlock(width, width // HEAD, STRIPE_WIDTHS[stage] if stage < 3 else None, 0.0)]


def _convnext(width: int, stage: int) -> list[nn.Module]:
    from mmpretrain.models.backbones.convnext import ConvNeXtBlock

    return [ConvNeXtBlock(width)]


def _poolformer(width: int, stage: int) -> list[nn.Module]:
    from mmpretrain.models.backbones.poolformer import PoolFormerBlock

    return [PoolFormerBlock(width)]


def _nextvit_ncb(width: int, stage: int) -> list[nn.Module]:
    from timm.models.nextvit import NextConvBlock

    return [NextConvBlock(width, width, head_dim=HEAD)]


def _nextvit_ntb(width: int, stage: int) -> list[nn.Module]:
    from timm.models.nextvit import NextTransformerBlock

    return [NextTransformerBlock(width, width, 0.0, sr_ratio=REDUCTIONS[stage], head_dim=HEAD)]


#: Every kind by its name: ours, then the peers'.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(_own(name) for name in OWN_KINDS),
        Kind('Twins-SVT', 'a pair: attention in 7x7 windows (LSA), then to subsampled keys (GSA)', 'tokens', _twins_svt,
             HEAD, _reduced(HEAD)),
        Kind('Twins-PCPVT', 'attention to subsampled keys', 'tokens', _twins_pcpvt, PVT_HEAD,
             _reduced(PVT_HEAD)),
        Kind('PVT', "attention to subsampled keys, mmdet's form", 'tokens', _pvt, PVT_HEAD, _reduced(PVT_HEAD)),
        Kind('PVTv2', 'attention to subsampled keys, MLP with a depthwise 3x3', 'tokens', _pvtv2,
             PVT_HEAD, _reduced(PVT_HEAD)),
        Kind('Swin', 'a pair: 7x7 windows, then shifted ones', 'tokens', _swin, HEAD),
        Kind('CSWin', 'attention in crossed stripes', 'nhwc', _cswin, 2 * HEAD),
        Kind('ConvNeXt', 'depthwise 7x7, MLP of ratio 4', 'map', _convnext),
        Kind('PoolFormer', 'pooling 3x3, MLP of ratio 4', 'map', _poolformer),
        Kind('Next-ViT NCB', "Next-ViT's convolution block", 'map', _nextvit_ncb, HEAD),
        Kind('Next-ViT NTB', "Next-ViT's Transformer block", 'map', _nextvit_ntb,
             4 * HEAD, lambda width, stage, tokens: 0.75 * width / HEAD * tokens**2 / REDUCTIONS[stage] ** 2),
    )
}  # fmt: skip
