"""Which of Twins' two treatments of a map that windows do not divide is measured: see docs/peers.md.

mmpretrain's locally-grouped attention masks the padding, but its mask is void where only one side is padded. The
authors' other form, in timm, pads with zeros and masks nothing.
"""

from __future__ import annotations

import pytest
import torch
from mmpretrain.models.backbones.twins import LocallyGroupedSelfAttention

twins = pytest.importorskip('timm.models.twins', reason='timm is not installed (extra benchmark)')


@pytest.mark.parametrize(
    ('size', 'same'),
    [
        ((14, 21), True),  # nothing to pad
        ((25, 42), True),  # stage 4 at 800 x 1344: the height alone is padded, and every other stage is like it
        ((16, 16), False),  # stage 4 at 512 x 512: both sides are padded and the mask holds
    ],
)
def test_the_mask_holds_where_both_sides_are_padded(size: tuple[int, int], same: bool) -> None:
    torch.manual_seed(0)
    masked = LocallyGroupedSelfAttention(32, num_heads=2, qkv_bias=True, window_size=7).eval()
    padded = twins.LocallyGroupedAttn(32, num_heads=2, ws=7).eval()
    padded.load_state_dict(masked.state_dict())
    tokens = torch.randn(1, size[0] * size[1], 32)
    with torch.no_grad():
        difference = (masked(tokens, size) - padded(tokens, size)).abs().max()
    assert (difference < 1e-5) == same


def test_at_the_detectors_size_one_side_is_padded_in_every_stage() -> None:
    for stride in (4, 8, 16, 32):
        height, width = 800 // stride, 1344 // stride
        assert height % 7 != 0
        assert width % 7 == 0
