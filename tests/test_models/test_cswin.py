"""CSWin's stripes against a plain loop over them, with and without padding, and its place in a graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrtvit.models import CSWin
from mmtrtvit.models.cswin import StripeAttention
from tests.test_models.common import randomize


def loop_over_stripes(
    attention: StripeAttention, qkv: torch.Tensor, stripe: tuple[int | None, int | None]
) -> torch.Tensor:
    """Section 3.2 and 3.3 of the paper for one image at a time, a stripe cut where the map ends, nothing padded."""
    batch, height, width, channels = qkv.shape
    channels //= 3
    qkv = qkv.reshape(batch, height, width, 3, channels).permute(0, 3, 1, 2, 4)
    rows, columns = stripe[0] or height, stripe[1] or width
    output = torch.zeros(batch, height, width, channels, dtype=qkv.dtype)
    head_dim = channels // attention.heads
    for image in range(batch):
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                part = qkv[image, :, top : top + rows, left : left + columns]
                _, h, w, _ = part.shape
                mixed = []
                for head in range(attention.heads):
                    q, k, v = part[..., head * head_dim : (head + 1) * head_dim].reshape(3, h * w, head_dim)
                    mixed.append(((q @ k.T) * head_dim**-0.5).softmax(-1) @ v)
                position = F.conv2d(
                    part[2].permute(2, 0, 1)[None], attention.position.weight, attention.position.bias,
                    padding=1, groups=channels,
                )  # fmt: skip
                cells = torch.cat(mixed, dim=-1).reshape(h, w, channels) + position[0].permute(1, 2, 0)
                output[image, top : top + rows, left : left + columns] = cells
    return output


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), thickness=st.integers(1, 7), kind=st.sampled_from('hvg'),
    batch=st.integers(1, 2),
)  # fmt: skip
def test_stripes_of_any_map_are_those_of_the_loop(
    height: int, width: int, thickness: int, kind: str, batch: int
) -> None:
    stripe: tuple[int | None, int | None] = {'h': (thickness, None), 'v': (None, thickness), 'g': (None, None)}[kind]
    torch.manual_seed(height * 100 + width)
    attention = StripeAttention(8, 2, stripe).double()
    qkv = torch.randn(batch, height, width, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(qkv), loop_over_stripes(attention, qkv, stripe))


def test_a_cell_sees_its_row_and_its_column_only() -> None:
    """The cross of the name: stage 1 has stripes one cell wide, so that a block links a cell with its cross alone."""
    torch.manual_seed(0)
    backbone = CSWin(dict(channels=(8, 8, 8, 8), depths=(1, 1, 1, 1), heads=(2, 2, 2, 2)), out_indices=(0,)).eval()
    block = backbone.stages[0][0]
    x = torch.randn(1, 6, 7, 8, requires_grad=True)
    block(x)[0, 2, 3].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    cross = torch.zeros(6, 7, dtype=torch.bool)
    cross[2, :] = cross[:, 3] = True
    assert torch.equal(seen, cross)


def test_fp16_keeps_the_padding_out() -> None:
    """The mask's addend is finite in fp16 and still leaves no weight to padding."""
    torch.manual_seed(0)
    attention = StripeAttention(8, 2, (None, 7)).eval()
    qkv = torch.randn(1, 5, 9, 24)
    with torch.no_grad():
        expected = attention(qkv)
        half = attention.half()(qkv.half()).float()
    assert torch.isfinite(half).all()
    assert (half - expected).abs().max() < 5e-3


def test_batch_of_two_is_each_alone() -> None:
    torch.manual_seed(0)
    backbone = CSWin(dict(channels=(8, 16, 16, 16), depths=(1, 1, 1, 1), heads=(2, 2, 2, 2)), out_indices=(0, 1, 2, 3))
    randomize(backbone.eval())
    images = torch.randn(2, 3, 75, 90)
    with torch.no_grad():
        together = backbone(images)
        alone = [backbone(image[None]) for image in images]
    for index, maps in enumerate(together):
        torch.testing.assert_close(maps, torch.cat([single[index] for single in alone]), rtol=1e-4, atol=1e-5)


def test_wrong_arguments_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"arch='large' is not one of tiny, small, nor a dict"):
        CSWin('large')
    with pytest.raises(ValueError, match=r"arch has the keys \['depths'\], not \['channels', 'depths', 'heads'\]"):
        CSWin(dict(depths=(1, 1, 1, 1)))
