"""Weights of a ResNetV1d and our own go where they belong, and the report says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mmpretrain.models  # noqa: F401  registers the classifiers
import pytest
import torch
from mmpretrain.registry import MODELS

from mmtrtvit.models import TRTViT, load_weights

from .common import ALL_STAGES, randomize, tiny, tiny_arch


def save_resnet(path: Path, depth: int) -> torch.nn.Module:
    """Save a classifier as mmengine does and return its backbone in eval mode."""
    torch.manual_seed(depth)
    classifier = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpretrain.ResNetV1d', depth=depth, out_indices=ALL_STAGES),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=2048),
        )
    )
    randomize(classifier)
    torch.save(dict(meta=dict(epoch=1), state_dict=classifier.state_dict()), path)
    classifier.backbone.train(False)
    return classifier.backbone


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, torch.nn.Module]:
    path = tmp_path_factory.mktemp('resnet') / 'resnetv1d50.pth'
    return str(path), save_resnet(path, 50)


def blocks_of(names: tuple[str, ...]) -> set[str]:
    return {'.'.join(name.split('.')[:2]) for name in names}


def names_of(state: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in state if not name.endswith('num_batches_tracked')}


def test_resnet50_fills_c_up_to_stage_3(resnet50) -> None:
    path, theirs = resnet50
    ours = TRTViT('c', out_indices=ALL_STAGES)
    ours.init_weights()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    report = ours.load_pretrained(path)
    ours.eval()

    stem = {f'stem.{i}' for i in range(3)}
    expected = stem | {f'layer{s}.{i}' for s, depth in ((1, 2), (2, 3), (3, 6)) for i in range(depth)}
    assert blocks_of(report.loaded) == expected
    assert blocks_of(report.left) == {f'layer4.{i}' for i in range(7)}
    assert blocks_of(report.ignored) == {'layer1.2', 'layer2.3', 'layer4.0', 'layer4.1', 'layer4.2', 'head.fc'}
    assert set(report.loaded) | set(report.left) == names_of(ours.state_dict())
    assert not set(report.loaded) & set(report.left)
    assert len(report.loaded) + len(report.ignored) == len(names_of(theirs.state_dict())) + 2  # the head's fc
    for name, value in ours.state_dict().items():
        source = theirs.state_dict()[name] if blocks_of((name,)) <= expected else before[name]
        assert torch.equal(value, source), name

    x = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        # Stages 1 and 2 are shorter than theirs by a block, which therefore is left out there too.
        outputs = ours(x)
        y = theirs.maxpool(theirs.stem(x))
        for index, depth in enumerate((2, 3, 6)):
            for block in list(getattr(theirs, f'layer{index + 1}'))[:depth]:
                y = block(y)
            assert torch.allclose(outputs[index], y, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_resnet101_fills_all_17_blocks_of_d(tmp_path: Path) -> None:
    path = tmp_path / 'resnetv1d101.pth'
    save_resnet(path, 101)
    report = load_weights(TRTViT('d'), str(path))
    assert {f'layer3.{i}' for i in range(17)} <= blocks_of(report.loaded)
    assert {f'layer3.{i}' for i in range(17, 23)} <= blocks_of(report.ignored)


def test_resnet50_leaves_the_rest_of_a_longer_stage(resnet50) -> None:
    report = load_weights(TRTViT('d'), resnet50[0])
    assert {f'layer3.{i}' for i in range(6)} <= blocks_of(report.loaded)
    assert {f'layer3.{i}' for i in range(6, 17)} <= blocks_of(report.left)


def test_a_whole_resnet_takes_all(resnet50) -> None:
    path, theirs = resnet50
    arch = dict(channels=(256, 512, 1024, 2048), depths=(3, 4, 6, 3), blocks=['BottleNeck'] * 4)
    ours = TRTViT(arch, out_indices=ALL_STAGES, init_cfg=dict(type='Pretrained', checkpoint=path))
    ours.init_weights()
    assert not ours.load_pretrained(path).left
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(ours.eval()(x), theirs(x), strict=True))


def test_init_cfg_initializes_what_it_leaves_and_says_so(resnet50, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr('mmtrtvit.models.warm_start.print_log', lambda text, logger: messages.append(text))
    torch.manual_seed(3)
    path = resnet50[0]
    backbone = TRTViT('a', init_cfg=dict(type='Pretrained', checkpoint=path))
    backbone.init_weights()
    loaded = torch.load(path)['state_dict']
    assert torch.equal(backbone.layer1[0].bn3.weight, loaded['backbone.layer1.0.bn3.weight'])
    assert not backbone.layer4[0].bottleneck.bn3.weight.any()
    assert abs(float(backbone.layer4[0].transformer.attn.qkv.weight.detach().std()) - 0.02) < 0.001
    (text,) = messages
    assert text.startswith(f'TRTViT from {path}:\nloaded: ')
    assert '\n  layer3.2: conv1.weight, bn1.weight, bn1.bias, bn1.running_mean' in text
    ignored = text[text.index('\nignored: ') :]
    assert '\n  head.fc: weight, bias' in ignored
    assert '\n  layer3.3: conv1.weight' in ignored


def test_mmengine_records_where_weights_in_a_detector_come_from(resnet50) -> None:
    """The record that mmengine writes into the log of a run names the checkpoint, for what came from it."""
    from collections import defaultdict

    backbone = TRTViT('a', init_cfg=dict(type='Pretrained', checkpoint=resnet50[0]))
    record: dict[Any, dict[str, Any]] = defaultdict(dict)
    for parameter in backbone.parameters():
        record[parameter] = dict(init_info='nothing', tmp_mean_value=parameter.data.mean())
    for module in backbone.modules():
        module._params_init_info = record
    backbone.init_weights()
    assert resnet50[0] in record[backbone.layer1[0].conv1.weight]['init_info']
    assert 'TruncNormal' in record[backbone.layer4[0].transformer.mlp.fc1.weight]['init_info']


@pytest.mark.parametrize('wrapping', ['', 'module.', 'backbone.', 'module.backbone.'])
@pytest.mark.parametrize('bare', [True, False])
def test_our_own_checkpoints(tmp_path: Path, wrapping: str, bare: bool) -> None:
    trained, fresh = tiny(seed=1), tiny(seed=2)
    state: dict[str, Any] = {wrapping + name: value for name, value in trained.state_dict().items()}
    if 'backbone' in wrapping:
        state[wrapping.replace('backbone', 'head') + 'fc.weight'] = torch.ones(2, 2)
    path = str(tmp_path / 'own.pth')
    torch.save(state if bare else dict(meta={}, state_dict=state), path)
    report = fresh.load_pretrained(path)
    assert report.left == ()
    assert report.ignored == (('head.fc.weight',) if 'backbone' in wrapping else ())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize('prefix', ['teacher.backbone', 'teacher.backbone.'])
def test_prefix_in_init_cfg(tmp_path: Path, prefix: str) -> None:
    teacher, student = tiny(seed=1), tiny(seed=2)
    state = {f'teacher.backbone.{name}': value for name, value in teacher.state_dict().items()}
    state |= {f'backbone.{name}': value for name, value in student.state_dict().items()}
    path = str(tmp_path / 'distilled.pth')
    torch.save(dict(state_dict=state), path)
    backbone = TRTViT(tiny_arch(), head_dim=16, init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix))
    backbone.init_weights()
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ('content', 'prefix', 'message'),
    [
        (dict(state_dict={'patch_embed.proj.weight': torch.ones(1)}), None, r'none of its 1 parameters \(patch_embed'),
        (dict(state_dict={}), None, 'nothing in it begins'),
        (dict(state_dict={'neck.weight': torch.ones(1)}), 'backbone', r"prefix='backbone.'; it has \['neck'\]"),
        (dict(optimizer=dict(lr=0.1)), None, "neither a state dict nor a checkpoint with one under 'state_dict'"),
        (
            dict(state_dict={'stem.0.conv.weight': torch.ones(32, 1, 3, 3)}),
            None,
            re.escape('stem.0.conv.weight: (32, 1, 3, 3) in the checkpoint, (8, 3, 3, 3) in the model'),
        ),
        (dict(state_dict={'stem.0.bn.weight': torch.ones(8)}), None, r"stem.0.bn has \['weight'\] in the checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path, content, prefix, message: str) -> None:
    path = str(tmp_path / 'other.pth')
    torch.save(content, path)
    backbone = tiny()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        backbone.load_pretrained(path, prefix=prefix)
    assert path in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_many_mismatches_are_shortened_and_a_missing_file_is_named(resnet50) -> None:
    with pytest.raises(ValueError, match=r'parameters of another shape\n(  .*\n){10}  and \d+ more'):
        tiny().load_pretrained(resnet50[0])
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        tiny().load_pretrained('nowhere.pth')
