"""Each block against the same computation written with other people's modules."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrtvit.models.blocks import BLOCK_KINDS, Attention, BlockOptions, BottleNeck, TransformerLayer

from .common import KINDS, randomize, relative_error


def make(kind: str, in_channels: int, out_channels: int, stride: int, **options) -> nn.Module:
    torch.manual_seed(0)
    block = BLOCK_KINDS[kind](in_channels, out_channels, stride, 0.0, BlockOptions(**options))
    randomize(block)
    return block.eval()


def pool(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Mean of what is there of each 2x2 window, written without a pooling operator."""
    if stride == 1:
        return x
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, width % 2, 0, height % 2))
    count = F.pad(torch.ones_like(x), (0, width % 2, 0, height % 2))
    shape = (*x.shape[:2], padded.shape[-2] // 2, 2, padded.shape[-1] // 2, 2)
    return padded.reshape(shape).sum((3, 5)) / count.reshape(shape).sum((3, 5))


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, var = state[f'{name}.running_mean'], state[f'{name}.running_var']
    scaled = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    return scaled * state[f'{name}.weight'][:, None, None] + state[f'{name}.bias'][:, None, None]


def pointwise(x: torch.Tensor, state: dict[str, torch.Tensor], conv: str, bn: str) -> torch.Tensor:
    weight = state[f'{conv}.weight'].flatten(1)
    return norm(torch.einsum('bchw,dc->bdhw', x, weight), state, bn)


def transformer(x: torch.Tensor, module: TransformerLayer) -> torch.Tensor:
    """PyTorch's own encoder layer with the same weights."""
    channels = x.shape[1]
    layer = nn.TransformerEncoderLayer(
        channels, module.attn.num_heads, module.mlp.fc1.out_features, 0.0, 'gelu', batch_first=True, norm_first=True
    ).eval()
    names = {
        'attn.qkv.': 'self_attn.in_proj_', 'attn.proj.': 'self_attn.out_proj.', 'mlp.fc1.': 'linear1.',
        'mlp.fc2.': 'linear2.', 'norm1.': 'norm1.', 'norm2.': 'norm2.',
    }  # fmt: skip
    state = {}
    for name, value in module.state_dict().items():
        ours = next(part for part in names if name.startswith(part))
        state[names[ours] + name.removeprefix(ours)] = value
    layer.load_state_dict(state)
    return layer(x.flatten(2).mT).mT.reshape(x.shape)


def bottleneck(x: torch.Tensor, module: BottleNeck, stride: int) -> torch.Tensor:
    state = module.state_dict()
    identity = x
    if 'downsample.0.weight' in state:
        identity = pointwise(x, state, 'downsample.0', 'downsample.1')
    elif 'downsample.1.weight' in state:
        identity = pointwise(pool(x, stride), state, 'downsample.1', 'downsample.2')
    x = pointwise(x, state, 'conv1', 'bn1').relu()
    x = norm(F.conv2d(F.pad(x, (1, 1, 1, 1)), state['conv2.weight'], stride=stride), state, 'bn2').relu()
    return (pointwise(x, state, 'conv3', 'bn3') + identity).relu()


def reference(kind: str, block: nn.Module, x: torch.Tensor, stride: int, options: BlockOptions) -> torch.Tensor:
    state = block.state_dict()
    if kind == 'BottleNeck':
        return bottleneck(x, block, stride)
    if kind == 'Transformer':
        if stride == 2:
            x = pointwise(pool(x, 2), state, 'embed.1', 'embed.2')
        elif 'embed.0.weight' in state:
            x = pointwise(x, state, 'embed.0', 'embed.1')
        return transformer(x, block.transformer)
    x = pool(x, stride)
    first = pointwise(x, state, 'reduce.conv', 'reduce.bn')

    def project(y: torch.Tensor) -> torch.Tensor:
        return pointwise(y, state, 'project.conv', 'project.bn') if options.mix_projection else y

    if kind == 'MixBlockA':
        branches = [transformer(first, block.transformer), bottleneck(project(x), block.bottleneck, 1)]
    elif kind == 'MixBlockB':
        local = bottleneck(first, block.bottleneck, 1)
        branches = [local, transformer(project(local), block.transformer)]
    else:
        overall = transformer(first, block.transformer)
        branches = [overall, bottleneck(project(overall), block.bottleneck, 1)]
    out = torch.cat(branches, dim=1)
    if options.mix_residual:
        out = out + (pointwise(x, state, 'shortcut.0', 'shortcut.1') if 'shortcut.0.weight' in state else x)
    return out


@settings(deadline=None, max_examples=50)
@given(
    kind=st.sampled_from(KINDS),
    in_channels=st.sampled_from([8, 32, 64]),
    stride=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    mix_ratio=st.sampled_from([0.25, 0.5, 0.75]),
    mlp_ratio=st.sampled_from([1.0, 2.5, 3.0]),
    head_dim=st.sampled_from([8, 16]),
    mix_projection=st.booleans(),
    mix_residual=st.booleans(),
)
def test_equals_the_written_out_block(
    kind, in_channels, stride, size, mix_ratio, mlp_ratio, head_dim, mix_projection, mix_residual
) -> None:
    if kind == 'MixBlockB' and not mix_projection:
        mix_ratio = 0.5
    options = dict(
        mix_ratio=mix_ratio, mlp_ratio=mlp_ratio, head_dim=head_dim,
        mix_projection=mix_projection, mix_residual=mix_residual,
    )  # fmt: skip
    block = make(kind, in_channels, 64, stride, **options)
    x = torch.randn(2, in_channels, *size)
    with torch.no_grad():
        got = block(x)
        expected = reference(kind, block, x, stride, BlockOptions(**options))
    assert got.shape == (2, 64, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    assert relative_error(got, expected) < 1e-5


def test_the_global_branch_comes_first_in_c_and_gets_its_share() -> None:
    block = make('MixBlockC', 64, 64, 1, mix_ratio=0.25, head_dim=16)
    x = torch.randn(1, 64, 3, 3)
    with torch.no_grad():
        assert torch.equal(block(x)[:, :16], block.transformer(block.reduce(x)))
    assert block.bottleneck.conv3.out_channels == 48


@pytest.mark.parametrize(('kind', 'share'), [('MixBlockA', 0), ('MixBlockB', 48), ('MixBlockC', 0)])
def test_what_each_branch_sees(kind: str, share: int) -> None:
    """Far away pixels reach the global branch of A; of B and C, they reach whatever comes after it."""
    block = make(kind, 64, 64, 1, mix_ratio=0.25, head_dim=16)
    x = torch.randn(1, 64, 9, 9)
    changed = x.clone()
    changed[..., 8, 8] += 1
    with torch.no_grad():
        moved = (block(x) - block(changed))[0, :, 0, 0].abs() > 1e-7
    global_part, local_part = moved[share : share + 16], torch.cat([moved[:share], moved[share + 16 :]])
    assert global_part.any()
    assert local_part.any() == (kind == 'MixBlockC')


@pytest.mark.parametrize('tokens', [1, 7, 50])
def test_attention_equals_softmax_written_out(tokens: int) -> None:
    torch.manual_seed(0)
    attention = Attention(48, 16)
    x = torch.randn(2, tokens, 48)
    weights, biases = attention.qkv.weight.split(48), attention.qkv.bias.split(48)
    q, k, v = (
        (x @ w.T + b).reshape(2, tokens, 3, 16).permute(0, 2, 1, 3) for w, b in zip(weights, biases, strict=True)
    )
    expected = (q @ k.mT / 4).softmax(-1) @ v
    expected = attention.proj(expected.permute(0, 2, 1, 3).reshape(2, tokens, 48))
    assert relative_error(attention(x), expected) < 1e-5


@pytest.mark.parametrize(
    ('kind', 'channels', 'options', 'message'),
    [
        ('BottleNeck', 30, {}, 'BottleNeck: 30 output channels are not a multiple of 4'),
        ('Transformer', 40, {}, 'Transformer: a width of 40 channels is not a multiple of head_dim=32'),
        ('MixBlockC', 96, {}, r'MixBlockC: mix_ratio=0.5 splits 96 channels into 48 \+ 48; the first must be'),
        ('MixBlockA', 64, dict(mix_ratio=0.001), r'MixBlockA: mix_ratio=0.001 splits 64 channels into 0 \+ 64'),
        ('MixBlockB', 128, dict(mix_ratio=0.25, mix_projection=False), 'set mix_projection=True or mix_ratio=0.5'),
    ],
)
def test_impossible_widths(kind: str, channels: int, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BLOCK_KINDS[kind](64, channels, 1, 0.0, BlockOptions(**options))
