"""``make demo``: the whole way, small in every run and in full in the slow ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMALL = """
_base_ = 'mmtrtvit::demo/mask_rcnn_trtvit_shapes.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, channels=(32, 64, 64, 64), depths=(1, 1, 1, 1))),
    neck=dict(in_channels=[32, 64, 64, 64]),
)
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'demo.py'), *arguments]
    # one thread: the other core has tests of its own, and two threads wait for each other
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_detector_that_learnt_nothing_is_not_called_a_success(tmp_path: Path) -> None:
    """All four steps run and leave their results, and then the demo says that the number is too low."""
    folder = tmp_path / 'a folder'
    folder.mkdir()
    (folder / 'small.py').write_text(SMALL, encoding='utf-8')
    options = ['--cfg-options', 'train_cfg.max_epochs=1']
    done = run_demo(folder, '--config', 'small.py', '--train-images', '4', '--val-images', '2', *options)
    assert done.returncode == 2, done.stderr[-3000:]
    assert 'error: coco/bbox_mAP_50 is 0.0' in done.stderr
    assert (folder / 'work_dirs' / 'demo' / 'detections.png').read_bytes().startswith(b'\x89PNG')
    checkpoint = folder / 'work_dirs' / 'demo' / 'epoch_1.pth'
    first = checkpoint.read_bytes()
    assert (folder / 'data' / 'shapes' / 'annotations' / 'instances_val2017.json').is_file()
    for step in ('1/4', '2/4', '3/4', '4/4', 'coco/segm_mAP', 'detections.png'):
        assert step in done.stdout
    line = '--out work_dirs/demo/detections.png --work-dir work_dirs/demo --cfg-options train_cfg.max_epochs=1'
    assert f'  python tools/visualize.py small.py work_dirs/demo/epoch_1.pth {line}\n' in done.stdout

    done = run_demo(folder, '--config', 'small.py', '--train-images', '6', '--val-images', '2')
    assert 'Epoch(train)' in done.stdout, 'trained on the new images, not drawn with the old model'
    assert (folder / 'work_dirs' / 'demo' / 'old1' / 'epoch_1.pth').read_bytes() == first
    assert checkpoint.read_bytes() != first


@pytest.mark.slow
def test_the_demo_works(tmp_path: Path) -> None:
    """Box mAP@50 of at least 0.5 on held-out images, in a path with spaces; a second run is quick and agrees."""
    folder = tmp_path / 'a folder'
    folder.mkdir()
    first = run_demo(folder)
    assert first.returncode == 0, first.stderr[-3000:]
    again = run_demo(folder)
    assert again.returncode == 0, again.stderr[-3000:]
    assert 'Epoch(train)' not in again.stdout
    # the number alone: the columns of the table grow with the seconds beside it
    found = [re.findall(r'coco/bbox_mAP_50 +\W (\d\.\d+)', done.stdout) for done in (first, again)]
    assert len(found[0]) == 1
    assert float(found[0][0]) >= 0.5
    assert found[0] == found[1]
    deployed_finds_the_same(folder)


def deployed_finds_the_same(folder: Path) -> None:
    """The demo's detector in ONNX Runtime against mmdet's own prediction on twenty held-out images."""
    images = sorted((folder / 'data' / 'shapes' / 'val2017').glob('*.jpg'))[:20]
    checkpoint = max((folder / 'work_dirs' / 'demo').glob('epoch_*.pth'))
    words = ['instance-seg_onnxruntime_static-320x320', 'demo/mask_rcnn_trtvit_shapes', checkpoint, images[0]]
    words += ['--work-dir', 'deployed', '--test-img', *images]
    words += ['--cfg-options', 'onnx_config.height=192', 'onnx_config.width=192']
    command = [sys.executable, '-W', 'ignore', '-m', 'mmtrtvit', 'deploy', *map(str, words)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    verdicts = json.loads((folder / 'deployed' / 'deploy.json').read_text())['parity'].values()
    assert len(verdicts) == 20
    assert all(verdict['passed'] for verdict in verdicts)
    assert sum(verdict['detections'] for verdict in verdicts) > 100
