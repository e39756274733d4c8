"""What a deployment refuses before it begins, and what it says that it changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmtrtvit.deploy.backends import get_backend
from mmtrtvit.deploy.pipeline import deploy
from mmtrtvit.deploy.tools.deploy import main
from tests.test_deploy.test_pipeline import SIZE, command_line, deploy_config, parsed, trained
from tests.tiny import make_detector


@pytest.fixture(scope='module')
def detector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('detector')
    config = make_detector(folder)
    return {'config': config, 'checkpoint': trained(config), 'image': folder / 'data' / 'images' / '0001.png'}


@pytest.mark.parametrize(('options', 'message'), [
    (['--device', 'gpu'], r'--device gpu: Expected one of cpu, cuda'),
    (['--cfg-options', 'onnx_confg.height=64'], r'a deploy config has no onnx_confg; did you mean onnx_config\?'),
])  # fmt: skip
def test_wrong_options_are_said_before_anything_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(['nowhere.py', 'nowhere.py', 'none', 'nowhere.png', *options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_deploy_config_twice_and_no_checkpoint(
    detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command_line(detector, tmp_path)
    words[1:3] = 'deploy/detection_onnxruntime_static-320x320.py', 'none'
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert 'it is no model config' in capsys.readouterr().err


def test_a_part_has_no_picture_to_show(
    detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command_line(detector, tmp_path, '--show', '--cfg-options', 'codebase_config.part=backbone'))
    assert stopped.value.code == 2
    assert "--show: codebase_config.part='backbone' gives feature maps" in capsys.readouterr().err


def test_no_window_without_a_screen(
    detector: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Qt would end the process with an abort when all the work is done."""
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(command_line(detector, tmp_path, '--show'))
    assert stopped.value.code == 2
    assert '--show: there is no screen here' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('options', 'message'), [
    (['--device', 'cuda:63'], r"device='cuda:63': this machine has "),
    (['onnx_config.dynamic_batch=True', 'backend_config.type=tensorrt-rtx'],
     r'dynamic_batch=True: tensorrt-rtx needs the bounds of the batch: set backend_config\.batch, such as'),
    (['backend_config.type=tensorrt-rtx', 'backend_config.batch=(1,2,4)'], r'set onnx_config\.dynamic_batch=True'),
    (['backend_config.workspace_mib=64'],
     r'py: backend_config\.workspace_mib=64: onnxruntime has no such option: leave it out'),
    (['backend_config.load.cuda_graph=True'], r"py: backend_config\.load\.cuda_graph=True: needs device='cuda'"),
    (['backend_config.optimization_level=9'], r'py: backend_config: optimization_level=9: must be'),
    (['codebase_config.max_dets=400'], 'max_dets=400: the model keeps test_cfg'),
])  # fmt: skip
def test_what_cannot_be_is_said_at_once_and_an_earlier_deployment_stays(
    options: list[str], message: str, detector: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if 'tensorrt-rtx' in str(options) and get_backend('tensorrt-rtx').availability().no_build:
        pytest.skip('TensorRT-RTX is not installed')

    def exported(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError('not before the export')

    monkeypatch.setattr('mmtrtvit.deploy.steps.export', exported)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'deploy.json').write_text('of an earlier deployment')
    more = options if options[0].startswith('--') else ['--cfg-options', *options]
    with pytest.raises(SystemExit) as stopped:
        main(command_line(detector, tmp_path, *more))
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert (tmp_path / 'out' / 'deploy.json').read_text() == 'of an earlier deployment'


@pytest.mark.slow
def test_another_sampling_is_said(tmp_path: Path) -> None:
    """mmdet's own two-stage configs sample adaptively; the deploy config's samples are compared on both sides."""
    config = tmp_path / 'adaptive.py'
    config.write_text(
        "_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py']\n"
        'model = dict(backbone=dict(depth=18, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512]),\n'
        '             test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=20)))\n'
    )
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    text = deploy_config('detection', 'onnxruntime')
    text += 'backend_config.update(operators=dict(roi_sampling_ratio=2))'
    made = deploy(parsed(text), Config.fromfile(config), 'none', [str(image)], tmp_path / 'out')
    (verdict,) = made.parity.values()
    assert verdict.passed
    assert verdict.detections == 20
    assert len(made.changed) == 1
    assert re.match('RoIAlign takes roi_sampling_ratio=2 on both sides, the model .* adaptive', made.changed[0])
    assert json.loads((tmp_path / 'out' / 'deploy.json').read_text())['changed'] == made.changed
