"""TRT-ViT (arXiv 2205.09579) as one backbone for mmdet, mmsegmentation and mmpretrain.

No code and no weights were published, and neither was a configuration table that could be had: ``ARCHS`` below is
a reconstruction from the paper's guidelines, fitted to the totals that others published for TRT-ViT-C.
``docs/model.md`` says for every choice where it comes from.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn import ConvModule, build_norm_layer, fuse_conv_bn
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit, constant_init, update_init_info
from mmengine.registry import MODELS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmtrtvit.models.blocks import BLOCK_KINDS, BlockOptions, BottleNeck, TransformerLayer, is_integer, is_number
from mmtrtvit.models.warm_start import LoadReport, WarmStartError, load_weights

NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)

FAMILY_BLOCKS = ('BottleNeck', 'BottleNeck', 'BottleNeck', 'MixBlockC')

# Our reconstruction. Guideline 1 puts the mixed blocks late, guideline 2 the depth; C is fitted to the published
# totals of Mask R-CNN and Semantic FPN (Next-ViT, arXiv 2207.05501, tables 5 and 6).
ARCHS: dict[str, dict[str, Any]] = {
    'a': dict(channels=(256, 512, 1024, 1024), depths=(2, 2, 3, 4), blocks=FAMILY_BLOCKS),
    'b': dict(channels=(256, 512, 1024, 1024), depths=(2, 3, 4, 8), blocks=FAMILY_BLOCKS),
    'c': dict(channels=(256, 512, 1024, 1536), depths=(2, 3, 6, 7), blocks=FAMILY_BLOCKS),
    'd': dict(channels=(256, 512, 1024, 1536), depths=(2, 3, 17, 10), blocks=FAMILY_BLOCKS),
}

ARCH_KEYS = ('channels', 'depths')
ARCH_DEFAULTS: dict[str, Any] = dict(blocks=FAMILY_BLOCKS, stem='deep', stem_channels=64)

#: What an ``init_cfg`` of type Pretrained may have beside its type.
PRETRAINED_KEYS = {'checkpoint', 'prefix', 'map_location'}
# Convolutions as ResNet's, Linear layers as ViT's.
DEFAULT_INIT: tuple[dict[str, Any], ...] = (
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm', 'LayerNorm']),
    dict(type='TruncNormal', std=0.02, layer='Linear'),
)


def parse_arch(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete description of an architecture, its ``blocks`` one kind per block.

    Args:
        arch: A letter of ``ARCHS`` or a dict as described in :class:`TRTViT`.

    Raises:
        ValueError: With what is wrong and what would be right.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(f'TRTViT: arch={arch!r} is not one of {", ".join(ARCHS)}')
        arch = ARCHS[arch.lower()]
    if not isinstance(arch, Mapping):
        raise ValueError(f'TRTViT: arch={arch!r} is neither one of {", ".join(ARCHS)} nor a dict')
    missing = [key for key in ARCH_KEYS if key not in arch]
    unknown = [key for key in arch if key not in (*ARCH_KEYS, *ARCH_DEFAULTS)]
    if missing or unknown:
        raise ValueError(
            f'TRTViT: the arch dict lacks {missing} and has unknown keys {unknown}; '
            f'it needs {list(ARCH_KEYS)} and may have {list(ARCH_DEFAULTS)}'
        )
    full = {**ARCH_DEFAULTS, **arch}
    for key in ('channels', 'depths', 'blocks'):
        if not isinstance(full[key], (list, tuple)) or len(full[key]) != NUM_STAGES:
            raise ValueError(
                f'TRTViT: arch[{key!r}]={full[key]!r} does not have one entry for each of {NUM_STAGES} stages'
            )
    for key in ('channels', 'depths'):
        if not all(isinstance(value, int) and value > 0 for value in full[key]):
            raise ValueError(f'TRTViT: arch[{key!r}]={full[key]!r} has an entry that is not a positive integer')
    if not isinstance(full['stem_channels'], int) or full['stem_channels'] < 2 or full['stem_channels'] % 2:
        raise ValueError(f"TRTViT: arch['stem_channels']={full['stem_channels']!r} is not an even positive integer")
    if full['stem'] not in ('deep', 'plain'):
        raise ValueError(f"TRTViT: arch['stem']={full['stem']!r} is neither 'deep' nor 'plain'")
    full['blocks'] = tuple(
        _stage_kinds(index, kinds, depth)
        for index, (kinds, depth) in enumerate(zip(full['blocks'], full['depths'], strict=True))
    )
    return full


def _stage_kinds(index: int, kinds: str | Sequence[str], depth: int) -> tuple[str, ...]:
    if not isinstance(kinds, (str, list, tuple)):
        raise ValueError(f"TRTViT: arch['blocks'][{index}]={kinds!r} is neither a kind nor a list of kinds")
    kinds = (kinds,) * depth if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in BLOCK_KINDS:
            raise ValueError(f"TRTViT: arch['blocks'][{index}]: {kind!r} is not one of {', '.join(BLOCK_KINDS)}")
    if len(kinds) != depth:
        raise ValueError(
            f"TRTViT: arch['blocks'][{index}] names {len(kinds)} blocks, arch['depths'][{index}] is {depth}"
        )
    return kinds


@MODELS.register_module()
class TRTViT(BaseModule):
    """TRT-ViT backbone: convolutional early stages, global-then-local MixBlocks in the late one.

    Stem and convolutional stages are a ResNet-D and carry the parameter names of mmpretrain's ``ResNetV1d``.
    Registered at mmengine's root, so that ``type='TRTViT'`` builds from mmdet, mmsegmentation and mmpretrain.

    Args:
        arch: ``'a'``, ``'b'``, ``'c'`` or ``'d'``, or a dict with

            - ``channels``: output channels of the four stages;
            - ``depths``: blocks of the four stages;
            - ``blocks`` (optional): for each stage one kind for all its blocks, or a list with one kind per block,
              out of BottleNeck, Transformer, MixBlockA, MixBlockB, MixBlockC. Default: three stages of BottleNeck,
              one of MixBlockC;
            - ``stem`` (optional): ``'deep'`` (ResNet-D's three 3x3) or ``'plain'`` (ResNet's 7x7);
            - ``stem_channels`` (optional): channels after the stem. Default: 64.
        in_channels: Channels of the input image.
        out_indices: Stages to return, 0 to 3, negative ones from the end. Default: the last one, as mmpretrain's
            classifiers want it; detectors and segmentors pass ``(0, 1, 2, 3)``.
        frozen_stages: As in mmdet: -1 freezes nothing, 0 the stem, 1 the stem and the first stage, and so on. What
            is frozen has ``requires_grad=False`` and stays in eval mode.
        norm_eval: Whether BatchNorm layers stay in eval mode in training.
        with_cp: Whether to recompute blocks in the backward pass to save memory. Running statistics are updated once.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        norm_cfg: The norm of the convolutional parts, as in mmcv's ``build_norm_layer``.
        mix_ratio: R, the share of a MixBlock's channels that its Transformer branch makes.
        mlp_ratio: Hidden width of the MLP over the width of the Transformer branch.
        head_dim: Channels per attention head.
        mix_projection: Whether a MixBlock has a 1x1 convolution + BN between its branches.
        mix_residual: Whether a shortcut runs around the whole MixBlock.
        zero_init_residual: Whether the last BN of every BottleNeck starts at zero, so that it starts as the identity.
        init_cfg: As in mmengine. ``dict(type='Pretrained', checkpoint=..., prefix=...)`` takes our own checkpoints and
            mmpretrain's ResNetV1d's (see :func:`mmtrtvit.models.warm_start.load_weights`); what it leaves open is
            initialized at random.
        deploy: Whether to build the form that :meth:`switch_to_deploy` leaves, to load weights saved in it.

    Raises:
        ValueError: If an argument does not make sense, naming it and what would.

    Example:
        >>> import torch
        >>> from mmtrtvit.models import TRTViT
        >>> backbone = TRTViT('a', out_indices=(0, 1, 2, 3)).eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 64))]
        [(1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4), (1, 1024, 2, 2)]
    """

    init_cfg: dict[str, Any] | list[dict[str, Any]] | None

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'c',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        norm_cfg: dict[str, Any] | None = None,
        mix_ratio: float = 0.5,
        mlp_ratio: float = 3.0,
        head_dim: int = 32,
        mix_projection: bool = True,
        mix_residual: bool = False,
        zero_init_residual: bool = True,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = parse_arch(arch)
        self.out_indices = _parse_out_indices(out_indices)
        if not is_integer(frozen_stages) or not -1 <= frozen_stages <= NUM_STAGES:
            raise ValueError(f'TRTViT: frozen_stages={frozen_stages!r} is not an integer between -1 and {NUM_STAGES}')
        if not is_number(drop_path_rate) or not 0 <= drop_path_rate < 1:
            raise ValueError(f'TRTViT: drop_path_rate={drop_path_rate!r} is not a number in [0, 1)')
        if not is_integer(in_channels) or in_channels < 1:
            raise ValueError(f'TRTViT: in_channels={in_channels!r} is not a positive integer')
        self.frozen_stages = frozen_stages
        self.in_channels = in_channels
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.zero_init_residual = zero_init_residual
        norm_cfg = dict(type='BN') if norm_cfg is None else _check_norm(norm_cfg, self.arch['stem_channels'])
        try:
            options = BlockOptions(mix_ratio, mlp_ratio, head_dim, mix_projection, mix_residual, norm_cfg)
        except ValueError as error:
            raise ValueError(f'TRTViT: {error}') from None

        self.stem = make_stem(self.arch['stem'], in_channels, self.arch['stem_channels'], norm_cfg)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self._add_stages(drop_path_rate, options)
        self._freeze()
        if deploy:
            self.switch_to_deploy()

    def _add_stages(self, drop_path_rate: float, options: BlockOptions) -> None:
        depth = sum(self.arch['depths'])
        rates = iter([drop_path_rate * index / max(depth - 1, 1) for index in range(depth)])
        width = self.arch['stem_channels']
        for index, (channels, kinds) in enumerate(zip(self.arch['channels'], self.arch['blocks'], strict=True)):
            blocks = []
            for position, kind in enumerate(kinds):
                stride = 2 if index > 0 and position == 0 else 1  # the stem has left a stride of 4
                blocks.append(BLOCK_KINDS[kind](width, channels, stride, next(rates), options))
                width = channels
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))

    @property
    def stages(self) -> list[nn.Sequential]:
        """The four stages, in order."""
        return [getattr(self, f'layer{index + 1}') for index in range(NUM_STAGES)]

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        return tuple(self.arch['channels'][index] for index in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each returned map, in pixels."""
        return tuple(STRIDES[index] for index in self.out_indices)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images to the feature maps of ``out_indices``.

        Args:
            x: Images, ``(B, in_channels, H, W)``, of any size.

        Returns:
            A map ``(B, C, ceil(H / stride), ceil(W / stride))`` per index, stride 4, 8, 16 and 32 for 0 to 3.
        """
        x = self.maxpool(self.stem(x))
        outputs = []
        for index, stage in enumerate(self.stages[: max(self.out_indices) + 1]):
            for block in stage:
                x = _recomputed(block, x) if self.with_cp and torch.is_grad_enabled() else block(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> TRTViT:
        """Set the mode, keeping frozen stages, and with ``norm_eval`` all BatchNorm, in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for part in [self.stem, *self.stages[: self.frozen_stages]]:
            part.eval()
            part.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialize at random, then load what ``init_cfg`` has of type ``Pretrained``."""
        if self.is_init:
            super().init_weights()  # says so in the log, and does nothing
            return
        given = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or [])
        pretrained = [cfg for cfg in given if cfg['type'] in ('Pretrained', PretrainedInit)]
        whole_init_cfg = self.init_cfg
        self.init_cfg = [cfg for cfg in given if cfg not in pretrained] or list(DEFAULT_INIT)
        try:
            super().init_weights()
        finally:
            self.init_cfg = whole_init_cfg
        if self.zero_init_residual:
            for module in self.modules():
                if isinstance(module, BottleNeck):
                    constant_init(module.bn3, 0)
        for cfg in pretrained:
            arguments = {key: value for key, value in cfg.items() if key != 'type'}
            if 'checkpoint' not in arguments or arguments.keys() - PRETRAINED_KEYS:
                raise WarmStartError(
                    f"init_cfg={cfg}: of type 'Pretrained' it has checkpoint, and if need be prefix and map_location"
                )
            self.load_pretrained(**arguments)

    def load_pretrained(self, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu') -> LoadReport:
        """Load a checkpoint of ours or of mmpretrain's ResNetV1d and log what went where.

        Args:
            checkpoint: Path or URL, as mmengine's ``CheckpointLoader`` takes it.
            prefix: What precedes the backbone's names in the checkpoint. Default: ``backbone.`` where it has that.
            map_location: Where the tensors are loaded to first.

        Returns:
            Which parameters were loaded, left, and ignored.
        """
        report = load_weights(self, checkpoint, prefix=prefix, map_location=map_location)
        if hasattr(self, '_params_init_info'):  # mmengine's record of who initialized what
            update_init_info(self, init_info=f'{type(self).__name__}: load from {checkpoint}')
        return report

    def fuse(self) -> TRTViT:
        """Return a copy in eval mode with every BatchNorm folded into the convolution before it.

        The ``Linear`` layers of Transformer blocks become 1x1 convolutions, the scale of the attention inside them.
        The original stays as it is. In the copy's ``state_dict`` each convolution has a ``bias`` and the names of the
        BatchNorm layers are gone; everything else keeps its name.
        """
        return copy.deepcopy(self).switch_to_deploy()

    def switch_to_deploy(self) -> TRTViT:
        """Do what :meth:`fuse` does in place, under the name that mmpretrain's users know."""
        fuse_conv_bn(self)
        for module in self.modules():
            if isinstance(module, TransformerLayer):
                module.switch_to_deploy()
        return self.eval()


def make_stem(kind: str, in_channels: int, channels: int, norm_cfg: dict[str, Any]) -> nn.Sequential:
    """Return the part before the max-pooling, ``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``.

    Args:
        kind: ``'deep'``: three 3x3 convolutions, the first two of half the width (ResNet-D, arXiv 1812.01187);
            ``'plain'``: one 7x7 (ResNet).
        in_channels: Channels of the image.
        channels: Channels of the result.
        norm_cfg: The norm, as in mmcv's ``build_norm_layer``.
    """
    if kind == 'plain':
        return nn.Sequential(ConvModule(in_channels, channels, 7, stride=2, padding=3, norm_cfg=norm_cfg))
    half = channels // 2
    return nn.Sequential(
        ConvModule(in_channels, half, 3, stride=2, padding=1, norm_cfg=norm_cfg),
        ConvModule(half, half, 3, padding=1, norm_cfg=norm_cfg),
        ConvModule(half, channels, 3, padding=1, norm_cfg=norm_cfg),
    )


def _parse_out_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    given = tuple(out_indices) if isinstance(out_indices, (list, tuple, range)) else (out_indices,)
    if not given or not all(is_integer(index) and -NUM_STAGES <= index < NUM_STAGES for index in given):
        raise ValueError(f'TRTViT: out_indices={out_indices!r} is not one or some of the stages 0 to {NUM_STAGES - 1}')
    return tuple(sorted({index % NUM_STAGES for index in given}))


def _check_norm(norm_cfg: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return a copy of ``norm_cfg`` if it makes a norm for ``channels`` channels.

    Raises:
        ValueError: It does not; mmcv's own words for a misspelt type are that it cannot find ``None``.
    """
    try:
        build_norm_layer(dict(norm_cfg), channels)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        why = f' for {channels} channels: {error}' if 'Cannot find' not in str(error) else ''
        raise ValueError(
            f'TRTViT: norm_cfg={norm_cfg!r} makes no norm{why}; '
            "write dict(type='BN'), dict(type='SyncBN'), dict(type='GN', num_groups=32) or another norm of mmcv"
        ) from error
    return dict(norm_cfg)


def _recomputed(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run a block that forgets its activations and computes them again in the backward pass."""
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block))
    )


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm update copies of its running statistics: the first run has updated the real ones."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    buffers = [dict(norm.named_buffers()) for norm in norms]
    for norm, kept in zip(norms, buffers, strict=True):
        for name, buffer in kept.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, kept in zip(norms, buffers, strict=True):
            for name, buffer in kept.items():
                setattr(norm, name, buffer)
