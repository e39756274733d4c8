"""EfficientFormer against mmpretrain's, whose weights it takes, and on maps of another size than 7 x 7."""

from __future__ import annotations

import pytest
import torch

from mmtrtvit.models import AnySizeEfficientFormer
from mmtrtvit.models.efficientformer import HEADS, RESOLUTION, BiasedAttention
from tests.test_models.common import randomize

#: mmpretrain's form and ours: a quarter of L1, every kind of block in each stage.
MMPRETRAIN = dict(layers=[1, 1, 2, 3], embed_dims=[16, 32, 48, 64], downsamples=[False, True, True, True], vit_num=2)
OURS = dict(channels=(16, 32, 48, 64), depths=(1, 1, 2, 3), attention=2)


@pytest.mark.parametrize('norm', ['LN', 'GN'])
def test_the_result_at_224_is_that_of_mmpretrain(norm: str) -> None:
    from mmpretrain.models.backbones import EfficientFormer

    torch.manual_seed(0)
    indices = (0, 1, 2, 3)
    reference = EfficientFormer(MMPRETRAIN, out_indices=list(indices), reshape_last_feat=norm == 'GN')
    randomize(reference)
    for name, parameter in reference.named_parameters():
        if name.endswith(('ls1.weight', 'ls2.weight', 'attention_biases')):
            torch.nn.init.uniform_(parameter, -1, 1)
    reference.eval()
    ours = AnySizeEfficientFormer(OURS, out_indices=indices, last_norm=norm).eval()
    left = ours.load_state_dict(reference.state_dict(), strict=False)
    assert left.missing_keys == []
    assert all(key.endswith('attention_bias_idxs') for key in left.unexpected_keys)
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected, got = reference(image), ours(image)
    for theirs, maps in zip(expected, got, strict=True):
        torch.testing.assert_close(maps, theirs.reshape(maps.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('arch', ['l1', 'l3'])
def test_the_weights_of_the_model_zoo_fit(arch: str) -> None:
    from mmpretrain.models.backbones import EfficientFormer

    with torch.device('meta'):
        reference = EfficientFormer(arch, out_indices=[3]).state_dict()
        ours = AnySizeEfficientFormer(arch).state_dict()
    index = 'attention_bias_idxs'
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in reference.items() if not key.endswith(index)
    }


def test_biases_are_stretched_over_the_map() -> None:
    """A bias that is the distance itself, relative to the side, stays that on a map of any size."""
    attention = BiasedAttention(16)
    steps = torch.linspace(0, 1, RESOLUTION)
    table = steps[:, None] + 10 * steps
    attention.attention_biases.data = table.reshape(1, -1).repeat(HEADS, 1)
    height, width = 5, 9
    biases = attention._biases((height, width)).view(HEADS, height, width, height, width)
    for (y1, x1), (y2, x2) in [((0, 0), (4, 8)), ((3, 2), (1, 7)), ((2, 2), (2, 2)), ((4, 0), (0, 0))]:
        expected = abs(y1 - y2) / (height - 1) + 10 * abs(x1 - x2) / (width - 1)
        torch.testing.assert_close(biases[:, y1, x1, y2, x2], torch.full((HEADS,), expected))


def test_wrong_norm_says_what_is_right() -> None:
    with pytest.raises(ValueError, match="last_norm='BN' is not LN or GN"):
        AnySizeEfficientFormer(last_norm='BN')
