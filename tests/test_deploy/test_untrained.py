"""Random weights are deployed with something to compare: settled norms, detections of every score."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.model import build_model
from mmtrtvit.deploy.graphs import GraphOptions, build_graph
from mmtrtvit.deploy.parity import TOLERANCES, compare, library_outputs
from mmtrtvit.deploy.preprocess import Letterbox
from mmtrtvit.deploy.steps import export_model
from mmtrtvit.deploy.untrained import settle_norms, without_threshold
from tests.test_deploy.models import pictures
from tests.test_deploy.test_pipeline import SIZE, deploy_config, parsed
from tests.tiny import make_classifier, make_detector


def norms_of(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def untrained(config: Path | str, height: int, width: int) -> tuple[Any, Letterbox]:
    cfg = load_config(str(config))
    model, _ = build_model(without_threshold(cfg), 'none')
    return model, Letterbox.from_model(model, GraphOptions(height=height, width=width), cfg)


def test_norms_get_the_statistics_of_what_they_see(tmp_path: Path) -> None:
    model, letterbox = untrained(make_detector(tmp_path), SIZE, SIZE)
    momenta = [norm.momentum for norm in norms_of(model)]
    settle_norms(model, letterbox)
    assert not any(module.training for module in model.modules())
    assert [norm.momentum for norm in norms_of(model)] == momenta
    seen: list[torch.Tensor] = []
    hook = norms_of(model.backbone)[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = pictures(8, SIZE, SIZE)
    with torch.no_grad():
        model.extract_feat(torch.stack([letterbox(image.numpy()).tensor for image in images]))
    hook.remove()
    # other pictures than those of the statistics: near 1, where untouched norms let activations grow or shrink
    assert 0.3 < float(seen[0].std()) < 3


def test_the_same_statistics_each_time(tmp_path: Path) -> None:
    config = make_detector(tmp_path)
    states = []
    for _ in range(2):
        model, letterbox = untrained(config, SIZE, 96)
        settle_norms(model, letterbox)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0, msg=name)


def test_a_canvas_of_one_pixel_in_the_last_stage(tmp_path: Path) -> None:
    """Of a single 1 x 1 map a BatchNorm has no variance; two pictures have one."""
    model, letterbox = untrained(make_classifier(tmp_path), 32, 32)
    settle_norms(model, letterbox)
    assert norms_of(model)
    for norm in norms_of(model):
        assert torch.isfinite(norm.running_var).all()


def test_the_threshold_goes_in_a_copy(tmp_path: Path) -> None:
    cfg = Config.fromfile(make_detector(tmp_path))
    assert cfg.model.test_cfg.score_thr > 0
    assert without_threshold(cfg).model.test_cfg.score_thr == 0
    assert cfg.model.test_cfg.score_thr > 0
    two_stages = load_config('mask_rcnn_trtvit.py')
    assert without_threshold(two_stages).model.test_cfg.rcnn.score_thr == 0
    classifier = Config.fromfile(make_classifier(tmp_path / 'other'))
    assert without_threshold(classifier).model == classifier.model


@pytest.mark.parametrize('dtype', ['float32', pytest.param('uint8', marks=pytest.mark.slow)])
def test_an_export_without_a_checkpoint_finds_something_and_one_with_it_is_left_alone(
    dtype: str, tmp_path: Path
) -> None:
    config = make_detector(tmp_path)
    text = deploy_config('detection', 'onnxruntime').replace(
        f'width={SIZE}', f'width={SIZE}, image_dtype={dtype!r}'
    )  # fmt: skip
    made = export_model(parsed(text), str(config), 'none', tmp_path / 'random.onnx')
    image = next((tmp_path / 'data').rglob('*.png'))
    feed = made.letterbox(str(image)).tensor[None]
    reference = library_outputs(made.model, made.graph, made.graph.normalize(feed))
    assert int(reference['num_dets']) == 10, 'all that max_per_img lets through'
    with torch.no_grad():
        found = dict(zip(made.graph.output_names, made.graph(feed), strict=True))
    verdict = compare(reference, found, TOLERANCES['fp32'])
    assert verdict.passed
    assert bool(found['exact'].all())

    model, _ = build_model(Config.fromfile(config), 'none')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    made = export_model(parsed(text), str(config), str(tmp_path / 'weights.pth'), tmp_path / 'given.onnx')
    for name, value in made.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0, msg=name)
    assert made.model.bbox_head.test_cfg.score_thr == 0.05


@pytest.mark.slow
@pytest.mark.parametrize('config', ['mask_rcnn_trtvit.py', 'retinanet_trtvit.py', 'twins/mask_rcnn_twins-svt-s.py'])
def test_at_the_size_of_coco(config: str) -> None:
    """As the README's deployment with ``none``: a padded canvas, a hundred detections, all agree, all proved."""
    model, letterbox = untrained(config, 800, 1344)
    settle_norms(model, letterbox)
    graph = build_graph(copy.deepcopy(model), GraphOptions(height=800, width=1344))
    image = letterbox(pictures(1, 427, 640)[0].numpy()).tensor[None]
    with torch.no_grad():
        found = dict(zip(graph.output_names, graph(image), strict=True))
    verdict = compare(library_outputs(model, graph, image), found, TOLERANCES['fp32'])
    assert verdict.detections == 100
    assert verdict.passed, verdict
    assert verdict.rows[-1].output == 'exact'
    assert verdict.rows[-1].largest == 1
