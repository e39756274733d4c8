"""The copy for deployment computes what the original computes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from mmtrtvit.models import ARCHS, TRTViT

from ..devices import DEVICES
from .common import ALL_STAGES, KINDS, randomize, relative_error, tiny, tiny_arch


def assert_equal_outputs(backbone: TRTViT, fused: TRTViT, x: torch.Tensor) -> None:
    with torch.no_grad():
        for expected, got in zip(backbone(x), fused(x), strict=True):
            assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize(
    ('arch', 'size'), [('a', (31, 31)), ('a', (112, 137)), ('b', (112, 137)), ('c', (31, 31)), ('d', (65, 96))]
)
def test_the_family(arch: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = TRTViT(arch, out_indices=ALL_STAGES).eval()
    randomize(backbone)
    fused, x = backbone.fuse(), torch.randn(1, 3, *size)
    with torch.no_grad():
        expected, got = backbone(x), fused(x)
    for index, stride in enumerate((4, 8, 16, 32)):
        shape = (1, ARCHS[arch]['channels'][index], *(math.ceil(side / stride) for side in size))
        assert got[index].shape == shape
        assert relative_error(got[index], expected[index]) < 1e-5


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stem', ['deep', 'plain'])
def test_every_kind_with_extreme_statistics(device: str, kind: str, stem: str) -> None:
    torch.manual_seed(0)
    backbone = TRTViT({**tiny_arch(kind, kind), 'stem': stem}, head_dim=16, mix_residual=True, out_indices=ALL_STAGES)
    randomize(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var[1] = 1e4
            module.weight.data[2] = 0.0
            module.weight.data[3] *= -1
    backbone.stem[-1].bn.running_var[0] = 0.0  # a channel that was constant on the training data
    backbone.to(device).eval()
    assert_equal_outputs(backbone, backbone.fuse(), torch.randn(2, 3, 63, 65, device=device))


def test_the_original_is_untouched() -> None:
    backbone = tiny(drop_path_rate=0.5, frozen_stages=1).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    requires_grad = [p.requires_grad for p in backbone.parameters()]
    modes = [m.training for m in backbone.modules()]
    fused = backbone.fuse()
    for parameter in fused.parameters():
        parameter.data.zero_()
    assert backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [p.requires_grad for p in backbone.parameters()] == requires_grad
    assert [m.training for m in backbone.modules()] == modes


def test_names_in_the_fused_copy() -> None:
    """Every convolution has a bias, no BatchNorm and no Linear is left, all other names stay."""
    backbone = tiny('MixBlockC')
    fused = backbone.fuse()
    assert not any(module.training for module in fused.modules())
    assert not any(isinstance(module, (nn.BatchNorm2d, nn.Linear)) for module in fused.modules())
    norms = {name for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    convs = {name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    kept = {name for name in backbone.state_dict() if name.rpartition('.')[0] not in norms}
    assert len(norms) == len(convs) > 0
    assert set(fused.state_dict()) == kept | {f'{name}.bias' for name in convs}


@pytest.mark.parametrize('kind', ['Transformer', 'MixBlockA', 'MixBlockB', 'MixBlockC'])
def test_what_an_export_sees_computes_the_same(kind: str) -> None:
    """Under ``torch.export`` a deployed Transformer block stays on the map: no Linear, no scale, no fused attention."""
    backbone, x = tiny(kind, kind).eval(), torch.randn(2, 3, 63, 65)
    fused = backbone.fuse()
    exported = torch.export.export(fused, (x,)).module()
    with torch.no_grad():
        for expected, got in zip(backbone(x), exported(x), strict=True):
            assert relative_error(got, expected) < 1e-5
    targets = {str(node.target) for node in exported.graph.nodes}
    operators = {name.split('.')[1] for name in targets if name.startswith('aten.')}
    assert operators >= {'conv2d', 'layer_norm', 'softmax'}
    assert not operators & {'linear', 'mul', 'div', 'scaled_dot_product_attention'}


@pytest.mark.parametrize('head_dim', [8, 16])
def test_projections_keep_names_types_and_gradients(head_dim: int) -> None:
    backbone = tiny('MixBlockC', head_dim=head_dim, frozen_stages=4).double()
    attention = backbone.layer4[0].transformer.attn
    weight, bias = attention.qkv.weight.clone(), attention.qkv.bias.clone()
    attention.switch_to_deploy()
    attention.switch_to_deploy()
    rows = torch.ones(len(bias), dtype=torch.double)
    rows[: len(bias) // 3] = head_dim**-0.5
    assert attention.qkv.weight.dtype == torch.double
    assert not attention.qkv.weight.requires_grad
    torch.testing.assert_close(attention.qkv.weight[:, :, 0, 0], weight * rows[:, None])
    torch.testing.assert_close(attention.qkv.bias, bias * rows)
    maps = torch.randn(1, weight.shape[1], 3, 5, dtype=torch.double)
    tokens = attention(maps.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(maps.shape)
    torch.testing.assert_close(attention(maps), tokens)


def test_in_place_twice_and_other_norms(tmp_path: Path) -> None:
    backbone = tiny().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
    assert backbone.switch_to_deploy().switch_to_deploy() is backbone
    with torch.no_grad():
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(backbone(x), expected, strict=True))

    groups = TRTViT(tiny_arch(), head_dim=16, norm_cfg=dict(type='GN', num_groups=4)).eval()
    assert groups.fuse().state_dict().keys() == groups.state_dict().keys()
    path = str(tmp_path / 'groups.pth')
    torch.save(groups.state_dict(), path)
    with pytest.raises(ValueError, match=r'(?s)qkv.weight: \(192, 64\) in the checkpoint.*deploy=True'):
        groups.fuse().load_pretrained(path)
    assert_equal_outputs(groups, groups.fuse(), x)


def test_a_saved_fused_backbone_loads_with_deploy(tmp_path: Path) -> None:
    fused = tiny(seed=1).fuse()
    path = str(tmp_path / 'fused.pth')
    torch.save(dict(state_dict=fused.state_dict()), path)
    again = TRTViT(
        tiny_arch(), head_dim=16, out_indices=ALL_STAGES, deploy=True, init_cfg=dict(type='Pretrained', checkpoint=path)
    )
    again.init_weights()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again.eval()(x), fused(x), strict=True))

    plain = str(tmp_path / 'plain.pth')
    torch.save(dict(state_dict=tiny().state_dict()), plain)
    for deploy, checkpoint in ((False, path), (True, plain)):
        with pytest.raises(ValueError, match=r'stem.0.conv has \[.*\] in the checkpoint and \[.*deploy=True'):
            TRTViT(tiny_arch(), head_dim=16, deploy=deploy).load_pretrained(checkpoint)
