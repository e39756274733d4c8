"""From config and checkpoint to files, cards, verdict and picture; and what stops on the way."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config

import mmtrtvit.deploy
from mmtrtvit.apis.model import build_model
from mmtrtvit.deploy import pipeline
from mmtrtvit.deploy.backends import BackendError, get_backend, read_card, sha256_of
from mmtrtvit.deploy.backends.card import RANDOM_WEIGHTS
from mmtrtvit.deploy.backends.types import Availability
from mmtrtvit.deploy.config import parse_deploy_config
from mmtrtvit.deploy.parity import TOLERANCES
from mmtrtvit.deploy.pipeline import Deployment, deploy
from mmtrtvit.deploy.tools.deploy import main
from mmtrtvit.errors import UserError
from tests.tiny import make_classifier, make_detector, make_segmentor

SIZE = 64


def deploy_config(task: str, backend: str, precision: str = 'fp32', **codebase: Any) -> str:
    """The text of a deploy config for a small canvas."""
    return (
        f'codebase_config = dict(task={task!r}, **{codebase!r})\n'
        f'onnx_config = dict(height={SIZE}, width={SIZE})\n'
        f'backend_config = dict(type={backend!r}, precision={precision!r})\n'
        'calib_config = dict(images=4)\n'
    )


def parsed(text: str) -> Any:
    return parse_deploy_config(Config.fromstring(text, '.py'), 'test.py')


def trained(config: Path) -> Path:
    """A checkpoint of a detector that finds something, which random weights do not."""
    cfg = Config.fromfile(config)
    model: Any = build_model(cfg, 'none')[0]
    with torch.no_grad():
        model.bbox_head.retina_cls.bias.fill_(-1.0)
        model.bbox_head.retina_cls.weight.mul_(30)
        model.bbox_head.retina_reg.weight.mul_(5)
    path = config.parent / 'detector.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': ('first', 'second')}}}, path)
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('detector')
    config = make_detector(folder)
    return {'config': config, 'checkpoint': trained(config), 'image': folder / 'data' / 'images' / '0001.png'}


@pytest.fixture(scope='module')
def deployed(detector: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return deploy(
        parsed(deploy_config('detection', 'onnxruntime')),
        Config.fromfile(detector['config']),
        str(detector['checkpoint']),
        [str(detector['image'])],
        tmp_path_factory.mktemp('deployed'),
        command='the command line',
    )


def test_the_engine_finds_what_mmdet_finds(deployed: Deployment) -> None:
    (verdict,) = deployed.parity.values()
    assert verdict.passed
    assert verdict.detections >= 5
    assert {row.output for row in verdict.rows} == {'detections', 'boxes', 'scores', 'exact'}
    assert deployed.ran == 'onnxruntime'


def test_files_and_card(deployed: Deployment, detector: dict[str, Path]) -> None:
    names = {path.name for path in deployed.work_dir.iterdir()}
    assert names == {'end2end.onnx', 'end2end.onnx.json', 'deploy.json', '0001_fp32.png'}
    card = read_card(deployed.engine)
    assert card.checkpoint_sha256 == sha256_of(detector['checkpoint'])
    assert card.onnx_sha256 == card.engine_sha256 == sha256_of(deployed.onnx)
    assert card.classes == ('first', 'second'), "the checkpoint's names win over the config's"
    assert card.command == 'the command line'
    assert [spec.name for spec in card.outputs] == ['boxes', 'scores', 'labels', 'num_dets', 'exact']
    assert card.inputs[0].shape == (1, 3, SIZE, SIZE)
    assert card.extra['task'] == 'detection'
    onnx.checker.check_model(str(deployed.onnx), full_check=True)


def test_summary(deployed: Deployment) -> None:
    summary = json.loads((deployed.work_dir / 'deploy.json').read_text())
    assert summary['passed'] is True
    assert summary['schema_version'] == 1
    assert summary['export']['nodes'] < summary['export']['nodes_exported']
    assert summary['export']['operators']['TopK'] >= 5
    assert summary['build']['precision_obtained'] == 'fp32'
    assert summary['files']['engine'] == 'end2end.onnx'
    assert sum(summary['seconds'].values()) > 0


def test_picture_has_two_sides(deployed: Deployment) -> None:
    picture = cv2.imread(str(deployed.pictures[0]))
    assert picture is not None
    assert picture.shape[1] > 2 * 500, 'two panels side by side'
    assert np.ptp(picture) > 100


def test_export_build_load_from_python(detector: dict[str, Path], tmp_path: Path) -> None:
    """The three functions of the package, although a module of it is called much the same."""
    import mmtrtvit.deploy.exporter

    config = tmp_path / 'deploy_cfg.py'
    config.write_text(deploy_config('detection', 'onnxruntime'))
    made = mmtrtvit.deploy.export(
        str(config), str(detector['config']), str(detector['checkpoint']), tmp_path / 'a.onnx'
    )
    assert made.card.classes == ('first', 'second')
    built = mmtrtvit.deploy.build(made.path, tmp_path / 'b.onnx', 'onnxruntime')
    assert built.precision_obtained == 'fp32'
    assert read_card(tmp_path / 'b.onnx').checkpoint_sha256 == made.card.checkpoint_sha256
    with mmtrtvit.deploy.load(tmp_path / 'b.onnx') as model:
        assert len(list(model(str(detector['image'])))) > 0
    made.path.write_bytes(made.path.read_bytes()[:-1])
    with pytest.raises(BackendError, match='is not the file that its card describes'):
        mmtrtvit.deploy.build(made.path, tmp_path / 'c.onnx', 'onnxruntime')


def test_engine_of_the_python_interface(deployed: Deployment, detector: dict[str, Path]) -> None:
    model = mmtrtvit.deploy.load(deployed.engine)
    found = list(model(str(detector['image'])))
    assert len(found) == next(iter(deployed.parity.values())).detections
    assert {item.name for item in found} <= {'first', 'second'}


def test_precisions_and_rtx_without_a_gpu(detector: dict[str, Path], tmp_path: Path) -> None:
    if get_backend('tensorrt-rtx').availability().no_build:
        pytest.skip('TensorRT-RTX is not installed')
    if torch.cuda.is_available():
        pytest.skip('here the engine would be run')
    made = deploy(
        parsed(deploy_config('detection', 'tensorrt-rtx', 'fp16')),
        Config.fromfile(detector['config']),
        'none',
        [str(detector['image'])],
        tmp_path,
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        'end2end.onnx', 'end2end.onnx.json', 'end2end.engine', 'end2end.engine.json', 'end2end_fp32.onnx',
        'deploy.json', '0001_fp16.png',
    }  # fmt: skip
    assert made.ran.startswith('onnxruntime (the tensorrt-rtx engine was not run: ')
    assert made.random_weights
    card = read_card(made.engine)
    assert card.backend == 'tensorrt-rtx'
    assert card.checkpoint == card.checkpoint_sha256 == RANDOM_WEIGHTS
    assert card.precision_obtained == 'fp16'
    assert card.onnx_sha256 == sha256_of(made.onnx)
    assert card.trtexec.startswith('tensorrt_rtx --onnx=')
    summary = json.loads((tmp_path / 'deploy.json').read_text())
    assert summary['precision_pass']['precision'] == 'fp16'


def test_int8_is_calibrated_on_the_training_images(detector: dict[str, Path], tmp_path: Path) -> None:
    made = deploy(
        parsed(deploy_config('detection', 'onnxruntime', 'int8')),
        Config.fromfile(detector['config']),
        str(detector['checkpoint']),
        [str(detector['image'])],
        tmp_path,
    )
    operators = {node.op_type for node in onnx.load(str(made.onnx)).graph.node}
    assert {'QuantizeLinear', 'DequantizeLinear'} <= operators
    assert made.card.precision_obtained == 'int8'


@pytest.mark.parametrize(('make', 'task', 'output'), [
    (make_segmentor, 'segmentation', 'label_map'),
    (make_classifier, 'classification', 'scores'),
])  # fmt: skip
def test_other_tasks(make: Any, task: str, output: str, tmp_path: Path) -> None:
    config = make(tmp_path)
    image = next((tmp_path / 'data').rglob('*.png'))
    made = deploy(
        parsed(deploy_config(task, 'onnxruntime')), Config.fromfile(config), 'none', [str(image)], tmp_path / 'out'
    )
    (verdict,) = made.parity.values()
    assert verdict.passed
    assert [row.output for row in verdict.rows] == [output]
    assert made.pictures[0].is_file()


def test_another_task_is_refused(detector: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'test\.py is for segmentation, the model does detection: .*detection_\*\.py'):
        deploy(
            parsed(deploy_config('segmentation', 'onnxruntime')),
            Config.fromfile(detector['config']),
            'none',
            [str(detector['image'])],
            tmp_path,
        )


def test_an_interrupted_build_leaves_nothing_that_looks_whole(
    detector: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = get_backend('onnxruntime')

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(backend), '_build', interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy(
            parsed(deploy_config('detection', 'onnxruntime')),
            Config.fromfile(detector['config']),
            'none',
            [str(detector['image'])],
            tmp_path,
        )
    assert {path.name for path in tmp_path.iterdir()} <= {'end2end.onnx'}, 'no card, no deploy.json, no partial file'
    with pytest.raises(BackendError, match='has no card'):
        mmtrtvit.deploy.load(tmp_path / 'end2end.onnx')


def command_line(detector: dict[str, Path], tmp_path: Path, *more: str) -> list[str]:
    config = tmp_path / 'deploy_cfg.py'
    config.write_text(deploy_config('detection', 'onnxruntime'))
    words = (config, detector['config'], detector['checkpoint'], detector['image'], '--work-dir', tmp_path / 'out')
    return [*map(str, words), *more]


def test_outside_the_tolerance_the_exit_status_is_1(
    detector: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = replace(TOLERANCES['fp32'], boxes_px=-1.0)
    monkeypatch.setitem(pipeline.TOLERANCES, 'fp32', strict)
    with pytest.raises(SystemExit) as stopped:
        main(command_line(detector, tmp_path))
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert 'the outputs are outside the tolerance' in said.err
    assert 'failed' in said.out
    assert 'only in the reference' in said.out
    assert json.loads((tmp_path / 'out' / 'deploy.json').read_text())['passed'] is False


@pytest.mark.slow
def test_options_reach_the_config_that_they_name(
    detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ('--dump-info', '--cfg-options', 'codebase_config.max_dets=7', 'model.test_cfg.score_thr=0.01')
    main(command_line(detector, tmp_path, *options))
    card = read_card(tmp_path / 'out' / 'end2end.onnx')
    assert card.outputs[0].shape == (1, 7, 4)
    detail = json.loads((tmp_path / 'out' / 'detail.json').read_text())
    assert 'score_thr=0.01' in detail['model_config']
    assert detail['deploy_config']['graph']['max_dets'] == 7
    assert 'passed' in capsys.readouterr().out


@pytest.mark.parametrize(('position', 'word', 'message'), [
    (0, 'nowhere.py', 'config not found'),
    (2, 'nowhere.pth', 'checkpoint not found: nowhere.pth'),
    (3, 'nowhere.png', 'image not found: nowhere.png'),
    (1, 'deploy/detection_onnxruntime_static-320x320.py', 'it is no model config'),
    (0, 'retinanet_trtvit.py', 'the deploy config comes first'),
])  # fmt: skip
def test_wrong_words(
    position: int, word: str, message: str, detector: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = command_line(detector, tmp_path)
    words[position] = word
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / 'out' / 'deploy.json').exists()


@pytest.mark.slow
def test_pictures_of_files_with_one_name_and_the_log(
    detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [tmp_path / folder / '0001.png' for folder in ('left', 'right')]
    for image in images:
        image.parent.mkdir()
        image.write_bytes(detector['image'].read_bytes())
    words = command_line(detector, tmp_path, '--log-level', 'DEBUG', '--test-img', *map(str, images))
    main(words)
    capsys.readouterr()
    logging.getLogger('mmtrtvit.deploy.backends.tensorrt_api').debug('what TensorRT says')
    assert 'what TensorRT says' in capsys.readouterr().err
    main([*words, '--log-level', 'INFO'])
    capsys.readouterr()
    logging.getLogger('mmtrtvit.deploy.backends.tensorrt_api').debug('what TensorRT says')
    assert capsys.readouterr().err == ''
    summary = json.loads((tmp_path / 'out' / 'deploy.json').read_text())
    assert summary['files']['pictures'] == ['0001_fp32.png', '0001_2_fp32.png']
    for name in summary['files']['pictures']:
        assert (tmp_path / 'out' / name).is_file()


class Unlisted:
    """A backend that does not load an engine on this GPU, or loads it and does not run it."""

    def __init__(self, loads: bool) -> None:
        self.loads = loads

    def load(self, engine: Path, device: str, options: Any = None) -> Any:
        if not self.loads:
            raise BackendError(f'{engine}: does not load the engine')

        def run(feed: dict[str, torch.Tensor]) -> Any:
            raise RuntimeError('no kernel image')

        return run


@pytest.mark.parametrize(('loads', 'why'), [(False, 'e.engine: does not load the engine'), (True, 'no kernel image')])
def test_where_an_unlisted_gpu_refuses_the_engine_its_graph_runs(
    loads: bool, why: str, deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, unlisted = get_backend, Unlisted(loads)
    monkeypatch.setattr(pipeline, 'get_backend', lambda name: unlisted if name == 'tensorrt-rtx' else real(name))
    made = SimpleNamespace(path=deployed.onnx, graph=SimpleNamespace(example_input=lambda: torch.zeros(1)))
    options = ('tensorrt-rtx', Availability('1.7', doubt='not listed'), Path('e.engine'), made, 'cpu', None)
    runner, ran = pipeline._runner(*options)
    with runner:
        assert ran == f'onnxruntime (the tensorrt-rtx engine was not run: not listed: {why})'
    if loads:
        return
    sure = (options[0], Availability('1.7'), *options[2:])
    with pytest.raises(BackendError, match='does not load the engine'):
        pipeline._runner(*sure)


def test_a_work_dir_that_cannot_be_made(
    detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'out').write_text('a file of the user')
    with pytest.raises(SystemExit) as stopped:
        main(command_line(detector, tmp_path))
    assert stopped.value.code == 2
    assert re.search(r'error: .*cannot write .*out: .*choose another place', capsys.readouterr().err)
    assert (tmp_path / 'out').read_text() == 'a file of the user'


@pytest.mark.parametrize(('part', 'outputs'), [
    ('backbone', ['feature_0', 'feature_1', 'feature_2', 'feature_3']),
    pytest.param('network', [f'output_{number}' for number in range(10)], marks=pytest.mark.slow),
])  # fmt: skip
def test_a_part_alone(part: str, outputs: list[str], detector: dict[str, Path], tmp_path: Path) -> None:
    made = deploy(
        parsed(deploy_config('detection', 'onnxruntime', part=part)),
        Config.fromfile(detector['config']),
        str(detector['checkpoint']),
        [str(detector['image'])],
        tmp_path,
    )
    (verdict,) = made.parity.values()
    assert verdict.passed
    assert [row.output for row in verdict.rows] == outputs
    assert made.pictures == []
    operators = {node.op_type for node in onnx.load(str(made.onnx)).graph.node}
    assert 'TopK' not in operators
