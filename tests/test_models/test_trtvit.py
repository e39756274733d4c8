"""The backbone's contract: shapes, gradients, modes, arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrtvit.models import ARCHS, TRTViT

from ..devices import DEVICES, REAL_DEVICES
from .common import ALL_STAGES, KINDS, relative_error, tiny, tiny_arch

MIXED_STAGE = ['BottleNeck', 'MixBlockC']


@pytest.mark.parametrize('arch', list(ARCHS))
@pytest.mark.parametrize('size', [(31, 31), (112, 137), (224, 224), (800, 1344)])
def test_shapes_of_the_family(arch: str, size: tuple[int, int]) -> None:
    with torch.device('meta'):
        backbone = TRTViT(arch, out_indices=ALL_STAGES)
        outputs = backbone(torch.empty(2, 3, *size))
    assert backbone.out_strides == (4, 8, 16, 32)
    assert backbone.out_channels == tuple(ARCHS[arch]['channels'])
    expected = [
        (2, channels, *(math.ceil(side / stride) for side in size))
        for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)
    ]
    assert [tuple(x.shape) for x in outputs] == expected


@settings(deadline=None, max_examples=20)
@given(kind=st.sampled_from(KINDS), stem=st.sampled_from(['deep', 'plain']), size=st.tuples(*[st.integers(1, 100)] * 2))
def test_any_size_runs(kind: str, stem: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = TRTViT({**tiny_arch(kind, kind), 'stem': stem}, head_dim=16, out_indices=ALL_STAGES).eval()
    with torch.no_grad():
        outputs = backbone(torch.rand(1, 3, *size))
    for x, stride in zip(outputs, (4, 8, 16, 32), strict=True):
        assert x.shape[2:] == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(('given_indices', 'expected'), [(3, (3,)), (-1, (3,)), ((0, -1), (0, 3)), ([2, 1], (1, 2))])
def test_out_indices(given_indices: Any, expected: tuple[int, ...]) -> None:
    backbone = tiny(out_indices=given_indices).eval()
    every = tiny().eval()
    x = torch.rand(1, 3, 64, 64)
    assert backbone.out_indices == expected
    with torch.no_grad():
        for got, index in zip(backbone(x), expected, strict=True):
            assert torch.equal(got, every(x)[index])


def test_a_classifier_gets_the_last_stage_by_default() -> None:
    assert TRTViT(tiny_arch(), head_dim=16).out_indices == (3,)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kinds', [*((kind, kind) for kind in KINDS), (MIXED_STAGE,)], ids=str)
@pytest.mark.parametrize('options', [{}, dict(mix_projection=False, mix_residual=True)], ids=['default', 'other'])
def test_every_parameter_gets_a_finite_gradient(device: str, kinds: tuple, options: dict[str, Any]) -> None:
    backbone = tiny(*kinds, frozen_stages=1, **options).to(device).train()
    sum(x.square().mean() for x in backbone(torch.rand(2, 3, 65, 64, device=device))).backward()
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(('stem', 'layer1'))
        assert parameter.requires_grad != frozen, name
        if frozen:
            assert parameter.grad is None, name
        else:
            assert torch.isfinite(parameter.grad).all(), name
            assert name.endswith('qkv.bias') or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize('arch', ['a', 'c'])
def test_gradients_of_the_family_after_init_weights(arch: str) -> None:
    torch.manual_seed(0)
    backbone = TRTViT(arch, out_indices=ALL_STAGES, drop_path_rate=0.1)
    backbone.init_weights()
    sum(x.square().mean() for x in backbone.train()(torch.rand(2, 3, 64, 64))).backward()
    bad = [name for name, p in backbone.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert bad == []


@pytest.mark.parametrize('device', REAL_DEVICES)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_checkpointing_changes_nothing(device: str, kind: str, frozen_stages: int) -> None:
    results = []
    for with_cp in (False, True):
        backbone = tiny(kind, kind, with_cp=with_cp, drop_path_rate=0.3, frozen_stages=frozen_stages).to(device).train()
        torch.manual_seed(1)
        x = torch.rand(3, 3, 65, 40, device=device, requires_grad=True)
        outputs = backbone(x)
        sum(y.square().mean() for y in outputs).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}
        results.append((outputs, x.grad, gradients, dict(backbone.named_buffers())))
    (plain, plain_x, plain_gradients, plain_buffers), (again, again_x, again_gradients, again_buffers) = results
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert torch.allclose(plain_x, again_x, rtol=1e-5, atol=1e-9)
    assert plain_gradients.keys() == again_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert torch.allclose(gradient, again_gradients[name], rtol=1e-5, atol=1e-7), name
    for name, buffer in plain_buffers.items():  # running statistics are updated once, not twice
        assert torch.equal(buffer, again_buffers[name]), name


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kind', KINDS)
def test_eval_is_deterministic_and_drops_nothing(device: str, kind: str) -> None:
    backbone = tiny(kind, kind, drop_path_rate=0.5).to(device).eval()
    plain = tiny(kind, kind, drop_path_rate=0.0).to(device).eval()
    x = torch.rand(2, 3, 63, 65, device=device)
    with torch.no_grad():
        first, second, without = backbone(x), backbone(x), plain(x)
    for a, b, c in zip(first, second, without, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_drop_path_rises_linearly_and_acts_in_training() -> None:
    backbone = tiny('MixBlockC', drop_path_rate=0.3)
    rates = {name: m.drop_prob for name, m in backbone.named_modules() if type(m).__name__ == 'DropPath'}
    by_block: dict[str, set[float]] = {}
    for name, rate in rates.items():
        by_block.setdefault('.'.join(name.split('.')[:2]), set()).add(round(rate, 6))
    assert list(by_block.values()) == [{round(0.3 * i / 6, 6)} for i in range(7)]
    backbone.train()
    x = torch.rand(1, 3, 32, 32)
    outputs = torch.stack([backbone(x.expand(8, -1, -1, -1))[3][i] for i in range(8)])
    assert len({round(float(y.detach().sum()), 4) for y in outputs}) > 1


@pytest.mark.parametrize('device', REAL_DEVICES)
@pytest.mark.parametrize('kind', KINDS)
def test_bf16_autocast_is_finite_and_near(device: str, kind: str) -> None:
    backbone = tiny(kind, kind).to(device).train()
    x = torch.rand(2, 3, 64, 64, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        outputs = backbone(x)
    sum(y.float().square().mean() for y in outputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())
    backbone.eval()
    with torch.no_grad():
        expected = backbone(x)
        with torch.autocast(device, dtype=torch.bfloat16):
            got = backbone(x)
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a.float(), b) < 0.05


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages(frozen_stages: int) -> None:
    backbone = tiny(frozen_stages=frozen_stages, drop_path_rate=0.2)
    frozen_parts = ('stem', 'layer1', 'layer2', 'layer3', 'layer4')[: frozen_stages + 1]
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    for _ in range(2):  # .train() must not thaw
        backbone.train()
    optimizer = torch.optim.SGD((p for p in [*backbone.parameters(), nn.Parameter(torch.ones(1))]), lr=0.1)
    loss = sum(x.square().mean() for x in backbone(torch.rand(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
    optimizer.step()
    for name, module in backbone.named_modules():
        if name and name != 'maxpool':
            assert module.training != name.startswith(frozen_parts or ('none',)), name
    for name, value in backbone.state_dict().items():
        if name.startswith(frozen_parts or ('none',)):
            assert torch.equal(value, before[name]), name
        elif 'running' in name:
            assert not torch.equal(value, before[name]), name


def test_norm_eval_keeps_statistics_and_trains_the_rest() -> None:
    backbone = tiny('MixBlockC', norm_eval=True, drop_path_rate=0.2).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    assert all(m.training for m in backbone.modules() if isinstance(m, (nn.LayerNorm, nn.Conv2d, nn.Linear)))
    before = [m.running_mean.clone() for m in norms]
    sum(x.mean() for x in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    assert all(m.weight.grad is not None for m in norms)
    assert not any(m.training for m in backbone.eval().modules())


@pytest.mark.parametrize(
    ('norm_cfg', 'expected'),
    [
        (dict(type='SyncBN'), nn.SyncBatchNorm),
        (dict(type='GN', num_groups=4), nn.GroupNorm),
        (dict(type='BN', eps=1e-3, requires_grad=False), nn.BatchNorm2d),
    ],
)
def test_norm_cfg(norm_cfg: dict[str, Any], expected: type[nn.Module]) -> None:
    backbone = TRTViT(tiny_arch(), head_dim=16, norm_cfg=norm_cfg)
    norms = [m for m in backbone.modules() if isinstance(m, (nn.SyncBatchNorm, nn.GroupNorm, nn.BatchNorm2d))]
    assert len(norms) == 3 + 5 * 3 + 3 + 2 * 5  # stem; BottleNecks; their shortcuts; MixBlocks
    assert all(isinstance(m, expected) for m in norms)
    assert all(m.eps == norm_cfg.get('eps', 1e-5) for m in norms)
    assert all(m.weight.requires_grad == norm_cfg.get('requires_grad', True) for m in norms)
    backbone.init_weights()
    assert backbone.eval()(torch.rand(1, 3, 32, 32))[0].shape == (1, 128, 1, 1)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    backbone = TRTViT('a')
    backbone.init_weights()
    linear = backbone.layer4[0].transformer.mlp.fc1
    assert abs(float(linear.weight.detach().std()) - 0.02) < 0.001
    assert float(linear.weight.detach().abs().max()) <= 2
    assert not linear.bias.detach().any()
    conv = backbone.layer2[0].conv2
    assert abs(float(conv.weight.detach().std()) / math.sqrt(2 / (9 * 128)) - 1) < 0.02  # kaiming, fan out
    for name, parameter in backbone.named_parameters():
        if name.endswith('bn3.weight'):
            assert not parameter.detach().any(), name
        elif 'bn' in name and name.endswith('weight'):
            assert bool((parameter.detach() == 1).all()), name
    other = TRTViT(tiny_arch(), head_dim=16, zero_init_residual=False)
    other.init_weights()
    assert bool((other.layer1[0].bn3.weight == 1).all())


def test_initial_signal_keeps_its_size() -> None:
    """From the stem to stage 4, random weights neither blow a normal image up nor put it out."""
    torch.manual_seed(0)
    for arch in ('a', 'c'):
        backbone = TRTViT(arch, out_indices=ALL_STAGES)
        backbone.init_weights()
        with torch.no_grad():
            deviations = [float(x.std()) for x in backbone.train()(torch.randn(2, 3, 64, 64))]
        assert all(0.1 < deviation < 10 for deviation in deviations), deviations


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='e'), "TRTViT: arch='e' is not one of a, b, c, d"),
        (dict(arch=3), 'TRTViT: arch=3 is neither one of a, b, c, d nor a dict'),
        (dict(arch=dict(depths=(1, 1, 1, 1), width=3)), r"lacks \['channels'\] and has unknown keys \['width'\]"),
        (
            dict(arch={**tiny_arch(), 'depths': (1, 2)}),
            r"arch\['depths'\]=\(1, 2\) does not have one entry for each of 4",
        ),
        (dict(arch={**tiny_arch(), 'depths': (1, 2, 0, 1)}), 'has an entry that is not a positive integer'),
        (dict(arch={**tiny_arch(), 'depths': 7}), r"arch\['depths'\]=7 does not have one entry"),
        (dict(arch={**tiny_arch(), 'stem': 'patch'}), r"arch\['stem'\]='patch' is neither 'deep' nor 'plain'"),
        (dict(arch={**tiny_arch(), 'stem_channels': 0}), r"arch\['stem_channels'\]=0 is not an even positive integer"),
        (
            dict(arch=tiny_arch('MixBlockD')),
            r"arch\['blocks'\]\[3\]: 'MixBlockD' is not one of BottleNeck, Transformer",
        ),
        (dict(arch=tiny_arch(2)), r"arch\['blocks'\]\[3\]=2 is neither a kind nor a list of kinds"),
        (dict(arch=tiny_arch(['MixBlockC'])), r"arch\['blocks'\]\[3\] names 1 blocks, arch\['depths'\]\[3\] is 2"),
        (dict(arch='a', out_indices=(0, 4)), r'out_indices=\(0, 4\) is not one or some of the stages 0 to 3'),
        (dict(arch='a', out_indices=()), r'out_indices=\(\) is not one or some'),
        (dict(arch='a', frozen_stages=5), 'frozen_stages=5 is not an integer between -1 and 4'),
        (dict(arch='a', drop_path_rate=1.0), r'drop_path_rate=1.0 is not a number in \[0, 1\)'),
        (dict(arch='a', mix_ratio=1.0), r'TRTViT: mix_ratio=1.0 is not a number between 0 and 1'),
        (dict(arch='a', mix_ratio=0.3), r'MixBlockC: mix_ratio=0.3 splits 1024 channels into 307 \+ 717'),
        (dict(arch='a', mlp_ratio=0), 'TRTViT: mlp_ratio=0 is not a positive number'),
        (dict(arch='a', head_dim=0), 'TRTViT: head_dim=0 is not a positive integer'),
        (dict(arch='a', head_dim=48), 'must be a multiple of head_dim=48'),
        (dict(arch='a', head_dim='32'), "TRTViT: head_dim='32' is not a positive integer"),
        (dict(arch='a', head_dim=32.5), r'TRTViT: head_dim=32\.5 is not a positive integer'),
        (dict(arch='a', mlp_ratio=float('nan')), 'TRTViT: mlp_ratio=nan is not a positive number'),
        (dict(arch='a', mix_ratio='0.5'), r"TRTViT: mix_ratio='0\.5' is not a number between 0 and 1"),
        (dict(arch='a', frozen_stages=1.5), r'TRTViT: frozen_stages=1\.5 is not an integer between -1 and 4'),
        (dict(arch='a', frozen_stages=-2), 'TRTViT: frozen_stages=-2 is not an integer between -1 and 4'),
        (dict(arch='a', frozen_stages=None), 'TRTViT: frozen_stages=None is not an integer'),
        (dict(arch='a', out_indices=1.0), r'TRTViT: out_indices=1\.0 is not one or some of the stages'),
        (dict(arch='a', out_indices='3'), "TRTViT: out_indices='3' is not one or some of the stages"),
        (dict(arch='a', out_indices=(-5,)), r'TRTViT: out_indices=\(-5,\) is not one or some of the stages'),
        (dict(arch='a', drop_path_rate='0.1'), r"TRTViT: drop_path_rate='0\.1' is not a number in \[0, 1\)"),
        (dict(arch='a', drop_path_rate=float('nan')), 'TRTViT: drop_path_rate=nan is not a number in'),
        (dict(arch='a', drop_path_rate=-0.1), r'TRTViT: drop_path_rate=-0\.1 is not a number in'),
        (dict(arch='a', in_channels=0), 'TRTViT: in_channels=0 is not a positive integer'),
        (dict(arch='a', norm_cfg=dict(type='BNN')), r"norm_cfg={'type': 'BNN'} makes no norm; write dict\(type='BN'\)"),
        (dict(arch='a', norm_cfg='BN'), "TRTViT: norm_cfg='BN' makes no norm"),
        (dict(arch='a', norm_cfg={}), 'TRTViT: norm_cfg={} makes no norm .*"type"'),
        (dict(arch='a', norm_cfg=dict(type='BN', epz=1)), "makes no norm for 64 channels: .*'epz'"),
        (dict(arch='a', norm_cfg=dict(type='GN', num_groups=7)), 'makes no norm for 64 channels: .*divisible'),
    ],
)
def test_bad_arguments_say_what_is_wrong(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device('meta'):
        TRTViT(**kwargs)


def test_letters_may_be_capital_and_arch_dicts_stay_as_they_are() -> None:
    arch = tiny_arch()
    copy = {**arch}
    TRTViT(arch, head_dim=16)
    assert arch == copy
    with torch.device('meta'):
        assert TRTViT('A').arch == TRTViT('a').arch
