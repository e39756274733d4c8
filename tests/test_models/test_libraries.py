"""One class, built from the registries of mmdet, mmsegmentation and mmpretrain, and working inside each."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import mmdet.models  # noqa: F401  registers its parts
import mmpretrain.models  # noqa: F401  registers its parts
import mmseg.models  # noqa: F401  registers its parts
import pytest
import torch
from mmdet.registry import MODELS as MMDET
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope, Registry
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as MMSEG

import mmtrtvit.registry
from mmtrtvit.models import TRTViT

from .common import tiny_arch

REGISTRIES = {'mmdet': MMDET, 'mmseg': MMSEG, 'mmpretrain': MMPRETRAIN, 'mmengine': ROOT}


@pytest.mark.parametrize('name', ['TRTViT', 'mmtrtvit.TRTViT'])
@pytest.mark.parametrize('library', list(REGISTRIES))
@pytest.mark.parametrize('scope', [None, 'mmdet', 'mmpretrain'])
def test_every_registry_builds_the_same_class(name: str, library: str, scope: str | None) -> None:
    registry: Registry = REGISTRIES[library]
    with DefaultScope.overwrite_default_scope(scope):
        backbone = registry.build(dict(type=name, arch=tiny_arch(), head_dim=16))
    assert type(backbone) is TRTViT


def test_our_own_registry_is_empty_and_finds_it() -> None:
    assert len(mmtrtvit.registry.MODELS) == 0
    assert mmtrtvit.registry.MODELS.get('TRTViT') is TRTViT


def test_an_error_keeps_its_text_through_the_registry() -> None:
    with pytest.raises(ValueError, match="TRTViT: arch='e' is not one of a, b, c, d"):
        MMDET.build(dict(type='TRTViT', arch='e'))


def test_a_config_object_is_as_good_as_a_dict() -> None:
    cfg = Config(dict(model=dict(type='TRTViT', arch=tiny_arch(['MixBlockB', 'MixBlockC']), head_dim=16)))
    backbone = MMSEG.build(cfg.model)
    assert [type(block).__name__ for block in backbone.layer4] == ['MixBlockB', 'MixBlockC']


def test_models_import_neither_a_library_nor_anything_else_of_ours() -> None:
    """A fresh interpreter that knows only the models has no mmdet, mmseg, mmpretrain, timm or compiled operator."""
    code = (
        'import sys, json, types; package = types.ModuleType("mmtrtvit"); '
        f'package.__path__ = [{mmtrtvit.__path__[0]!r}]; sys.modules["mmtrtvit"] = package; '
        'import mmtrtvit.models; print(json.dumps(sorted(sys.modules)))'
    )
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(run.stdout.splitlines()[-1])
    ours = [name for name in modules if name.startswith('mmtrtvit.') and not name.startswith('mmtrtvit.models')]
    assert ours == []
    assert not {'mmdet', 'mmseg', 'mmpretrain', 'timm', 'torchvision'} & set(modules)


@pytest.fixture
def classifier() -> Any:
    torch.manual_seed(0)
    return MMPRETRAIN.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='TRTViT', arch=tiny_arch(), head_dim=16, drop_path_rate=0.1),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=5,
                in_channels=128,
                loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
            ),
        )
    )


def test_a_classifier_runs_and_learns(classifier: Any) -> None:
    classifier.init_weights()
    classifier.train()
    inputs = torch.randn(10, 3, 32, 32)
    samples = [DataSample().set_gt_label(i % 5) for i in range(10)]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = classifier(inputs, samples, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2, losses
    classifier.eval()
    assert classifier(inputs).shape == (10, 5)
    prediction = classifier(inputs, samples, mode='predict')[0]
    assert prediction.pred_score.sum().item() == pytest.approx(1, abs=1e-5)


def test_mmpretrains_reparameterize_model_works(classifier: Any) -> None:
    """Its tool calls ``model.backbone.switch_to_deploy()``."""
    classifier.eval()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = classifier(inputs)
        classifier.backbone.switch_to_deploy()
        assert torch.allclose(classifier(inputs), before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_a_pyramid_on_top(library: str) -> None:
    backbone = dict(type='TRTViT', arch=tiny_arch(), head_dim=16, out_indices=(0, 1, 2, 3), frozen_stages=1)
    with DefaultScope.overwrite_default_scope(library):
        model = REGISTRIES[library].build(backbone)
        neck = REGISTRIES[library].build(
            dict(type='FPN', in_channels=list(model.out_channels), out_channels=8, num_outs=4)
        )
    maps = neck(model(torch.randn(2, 3, 96, 64)))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 24, 16), (2, 8, 12, 8), (2, 8, 6, 4), (2, 8, 3, 2)]


def test_torch_export_takes_the_fused_copy() -> None:
    torch.manual_seed(0)
    backbone = TRTViT(tiny_arch('MixBlockC'), head_dim=16, out_indices=(0, 1, 2, 3)).fuse()
    x = torch.randn(1, 3, 65, 64)
    program = torch.export.export(backbone, (x,), strict=False)
    with torch.no_grad():
        for got, expected in zip(program.module()(x), backbone(x), strict=True):
            assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum('softmax' in target for target in targets) == 2  # attention is written out, its projections are
    assert not any(name in target for target in targets for name in ('batch_norm', 'aten.linear'))  # convolutions
