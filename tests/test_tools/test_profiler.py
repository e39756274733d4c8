"""The profiler: numbers with their conditions, and one clear line where it cannot measure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
import torch

from mmtrtvit.__main__ import _TOOLS
from mmtrtvit.deploy.inference import load
from mmtrtvit.deploy.profiler import find_images, profile
from mmtrtvit.deploy.tools.profiler import main, run
from mmtrtvit.errors import UserError
from tests.test_deploy import engines
from tests.test_deploy.engines import Tiny

DEPLOY_CFG = 'detection_onnxruntime_static-320x320.py'


@pytest.fixture(scope='session')
def detector(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return engines.detector(tmp_path_factory)


@pytest.fixture(autouse=True)
def _own_threads() -> object:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_every_part_is_timed_and_described(detector: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'profile.json'
    measured = run(
        [DEPLOY_CFG, str(detector.config), str(detector.images), '--model', str(detector.engine),
         '--warmup', '1', '--num-iter', '7', '--threads', '1', '--json', str(out)]
    )  # fmt: skip
    regions = {region.name: region for region in measured.regions}
    assert list(regions) == ['reading', 'pre-processing', 'engine', 'post-processing', 'all']
    for region in measured.regions:
        assert 0 < region.min_ms <= region.p10_ms <= region.median_ms <= region.p90_ms
        assert region.iterations == 7
        assert region.images_per_second == pytest.approx(4 * 1000 / region.median_ms)
        assert region.inside
    parts = sum(region.mean_ms for name, region in regions.items() if name != 'all')
    assert regions['all'].mean_ms == pytest.approx(parts)
    assert measured.layers[0].milliseconds >= measured.layers[-1].milliseconds
    assert sum(layer.share for layer in measured.layers) == pytest.approx(1)
    assert measured.detections_per_image == 10
    written = json.loads(out.read_text())
    facts = written['conditions']
    assert (facts['model'], facts['precision'], facts['batch_size'], facts['threads']) == ('detector', 'fp32', 4, 1)
    assert (facts['height'], facts['width'], facts['backend'], facts['device']) == (64, 96, 'onnxruntime', 'cpu')
    assert facts['random_weights'] is False
    assert facts['cpu']
    assert facts['versions']['torch'] == torch.__version__
    assert len(written['layers']) == len(measured.layers)
    shown = capsys.readouterr().out
    for words in ('says 320x320', 'latency of a batch, ms; 7 iterations after 1', 'post-processing', 'costliest',
                  'layers of the engine, by kind', str(out)):  # fmt: skip
        assert words in shown


def test_engine_without_layer_costs_and_the_default_batch(detector: Tiny) -> None:
    with load(detector.engine) as engine:
        measured = profile(engine, find_images(detector.images)[:1], warmup=0, iterations=2, layers=False)
    assert measured.layers == ()
    assert measured.conditions['threads'] == 'default'


def test_python_dash_m_knows_it() -> None:
    assert _TOOLS['profiler'][0] == 'deploy.tools.profiler'


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no such folder'):
        find_images(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='no image in it'):
        find_images(tmp_path)
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(UserError, match=r'no image in it \(\.jpg'):
        find_images(tmp_path)
    with pytest.raises(UserError, match='a file; a folder'):
        find_images(tmp_path / 'a.txt')
    (tmp_path / 'b.PNG').write_bytes(b'')
    assert find_images(tmp_path) == [tmp_path / 'b.PNG']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--batch-size', '2'], '--batch-size 2: .* takes batches of 4 only: deploy it with'),
        (['--batch-size', '0'], '--batch-size 0: at least 1'),
        (['--num-iter', '0'], '--num-iter 0: at least 1'),
        (['--warmup', '-1'], '--warmup -1: at least 0'),
        (['--threads', '0'], '--threads 0: at least 1'),
        (['--device', 'cuda:99'], 'cuda'),
        (['--model', 'nowhere.onnx'], 'engine not found: nowhere.onnx'),
        (['damaged'], 'no.png: damaged'),
        (
            ['tensorrt'],
            r'onnx is a graph, which ONNX Runtime runs, and .* is for tensorrt: profile end2end\.engine, or',
        ),
        (['--cfg-options', 'onnx_confg.height=64'], 'a deploy config has no onnx_confg; did you mean onnx_config'),
        (['--cfg-options', 'backend_config.type=pytorch'], 'is for pytorch'),
    ],
)
def test_what_cannot_be_measured_is_refused(
    detector: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    deploy_cfg, folder = DEPLOY_CFG, detector.images
    if words == ['damaged']:
        folder, words = tmp_path, []
        (tmp_path / 'no.png').write_bytes(b'nothing')
    if words == ['tensorrt']:
        deploy_cfg, words = 'detection_tensorrt_static-640x640.py', []
    with pytest.raises(SystemExit) as status:
        main([deploy_cfg, str(detector.config), str(folder), '--model', str(detector.engine), *words])
    assert status.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ')
    assert re.search(message, error), error
