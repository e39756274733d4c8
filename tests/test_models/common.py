"""Small backbones and what several test files do with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn

from mmtrtvit.models import TRTViT

KINDS = ('BottleNeck', 'Transformer', 'MixBlockA', 'MixBlockB', 'MixBlockC')
ALL_STAGES = (0, 1, 2, 3)


def tiny_arch(*kinds: Any) -> dict[str, Any]:
    """An arch of some ten thousand parameters; the last stages have the given kinds, the others BottleNecks."""
    blocks = ['BottleNeck'] * (4 - len(kinds)) + list(kinds or ['MixBlockC'])
    return dict(channels=(32, 64, 64, 128), depths=(1, 2, 2, 2), blocks=blocks[-4:], stem_channels=16)


def tiny(*kinds: Any, seed: int = 0, **kwargs: Any) -> TRTViT:
    """A tiny backbone that returns all stages, with reproducible weights and statistics unlike the initial ones."""
    torch.manual_seed(seed)
    kwargs.setdefault('head_dim', 16)
    kwargs.setdefault('out_indices', ALL_STAGES)
    backbone = TRTViT(tiny_arch(*kinds), **kwargs)
    randomize(backbone)
    return backbone


def randomize(model: nn.Module) -> None:
    """Draw norms' affine parameters, running statistics and all biases, which a fresh model has at 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, 'bias', None) is not None:
            nn.init.uniform_(module.bias, -0.2, 0.2)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return float((got - expected).detach().abs().max() / expected.detach().abs().max())
