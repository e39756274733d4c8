"""The examples of docs/deployment.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from mmtrtvit.deploy import load
from mmtrtvit.deploy.backends import get_backend, read_card
from mmtrtvit.deploy.tools.deploy import deploy

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'deployment.md'


def blocks() -> list[str]:
    """The Python of the section about Python, one text a block."""
    section = DOCUMENT.read_text(encoding='utf-8').split('\n## Python\n')[1].split('\n## ')[0]
    return re.findall(r'```python\n(.*?)```', section, flags=re.DOTALL)


@pytest.mark.slow
def test_an_engine_to_detections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With masks: those of a Mask R-CNN with random weights."""
    config = tmp_path / 'masks.py'
    config.write_text(
        "_base_ = ['mmtrtvit::demo/mask_rcnn_trtvit_shapes.py']\n"
        'model = dict(test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=5)))\n'
    )
    image = tmp_path / 'image.jpg'
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    sizes = ['onnx_config.height=64', 'onnx_config.width=96']
    words = ['instance-seg_onnxruntime_static-320x320', str(config), 'none', str(image)]
    deploy([*words, '--work-dir', str(tmp_path / 'out'), '--log-level', 'ERROR', '--cfg-options', *sizes])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(blocks()[0], str(DOCUMENT), 'exec'), {})
    assert len(capsys.readouterr().out.splitlines()) == len(list(load('out/end2end.onnx')('image.jpg'))) == 5


@pytest.mark.slow
def test_export_and_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size that the document names; its paths are those of a checkout."""
    if get_backend('tensorrt-rtx').availability().no_build:
        pytest.skip('TensorRT-RTX is not installed')
    (tmp_path / 'configs').symlink_to(DOCUMENT.parents[1] / 'configs')
    (tmp_path / 'out').mkdir()
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks()[1], str(DOCUMENT), 'exec'), {})
    assert read_card('out/model.engine').inputs[0].shape == (1, 3, 320, 320)


@pytest.mark.slow
def test_a_built_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks()[2], str(DOCUMENT), 'exec'), {})
    graph = onnx.load('model.onnx').graph
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 320, 320]
