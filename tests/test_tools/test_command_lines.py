"""The tools as a user starts them, each in a process of its own and outside the checkout."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmengine import load as load_file

from mmtrtvit.__main__ import _TOOLS, main
from mmtrtvit.apis.test import evaluate
from mmtrtvit.apis.train import train
from tests.tiny import make_detector

TOOLS = Path(__file__).parents[2] / 'tools'

# --standalone takes a port that is free
TORCHRUN = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2)


def start(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
    )


def losses(text: str) -> list[float]:
    return [float(value) for value in re.findall(r'Epoch\(train\).* loss: ([\d.]+)', text)]


def test_training_without_coco_ends_with_one_line(tmp_path: Path) -> None:
    done = start(sys.executable, TOOLS / 'train.py', 'configs/mask_rcnn_trtvit.py', cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith('error: missing data: data/coco/annotations/instances_train2017.json')
    for needed in ('train2017/*.jpg', 'cocodataset.org', 'data_root', '`make demo` needs no download'):
        assert needed in lines[0]
    assert not list(tmp_path.iterdir()), 'nothing was written'


def test_two_processes_on_the_cpu(tmp_path: Path) -> None:
    """gloo, although the config says nccl; the epochs are shared between the two, and both evaluate at the end."""
    config = make_detector(tmp_path, images=8)
    done = start(
        *TORCHRUN, TOOLS / 'train.py', config, '--launcher', 'pytorch', '--work-dir', 'out',
        '--cfg-options', 'model.test_cfg.score_thr=0.0', cwd=tmp_path, CUDA_VISIBLE_DEVICES='',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(done.stdout)) == 4, 'two epochs of 8 images, 2 a process'
    assert 'coco/bbox_mAP: ' in done.stdout
    assert "backend='nccl'" in (tmp_path / 'out' / 'detector.py').read_text()
    assert (tmp_path / 'out' / 'last_checkpoint').read_text().endswith('epoch_2.pth')


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
def test_two_processes_on_gpus(tmp_path: Path) -> None:
    config = make_detector(tmp_path, images=8)
    done = start(*TORCHRUN, TOOLS / 'train.py', config, '--launcher', 'pytorch', '--work-dir', 'out', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(done.stdout)) == 4


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``detector.py`` and one epoch of it, by ``python -m mmtrtvit`` as after installing a wheel."""
    folder = tmp_path_factory.mktemp('trained')
    config = make_detector(folder)
    tool = (sys.executable, '-m', 'mmtrtvit', 'train')
    done = start(*tool, config, '--cfg-options', 'train_cfg.max_epochs=1', cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(done.stdout)) == 3
    return folder


def test_evaluation_prints_metrics_and_writes_results_and_pictures(trained: Path) -> None:
    done = start(
        sys.executable, TOOLS / 'test.py', 'detector.py', 'work_dirs/detector/epoch_1.pth', '--work-dir', 'tested',
        '--out', 'results.pkl', '--show-dir', 'shown', '--cfg-options', 'model.test_cfg.score_thr=0.0', cwd=trained,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'coco/bbox_mAP:' in done.stdout + done.stderr
    results = load_file(trained / 'results.pkl')
    assert len(results) == 6
    assert results[0]['pred_instances']['bboxes'].shape == (10, 4)
    assert len(list((trained / 'tested').glob('*/shown/*.png'))) == 6


@pytest.mark.slow
def test_evaluation_in_two_processes_finds_the_same(trained: Path) -> None:
    """Over gloo: the results of both, in the order of one process, and the same figures."""
    figures, results = [], []
    for name, launch, launcher in (('one', (sys.executable,), 'none'), ('two', TORCHRUN, 'pytorch')):
        done = start(
            *launch, TOOLS / 'test.py', 'detector.py', 'work_dirs/detector/epoch_1.pth', '--work-dir', name,
            '--launcher', launcher, '--out', f'{name}.pkl', '--cfg-options', 'model.test_cfg.score_thr=0.0',
            cwd=trained, CUDA_VISIBLE_DEVICES='',
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        figures.append(re.findall(r'Epoch\(test\) .*(coco/bbox_mAP: .* coco/bbox_mAP_l: \S+)', done.stdout))
        results.append(load_file(trained / f'{name}.pkl'))
    assert len(figures[0]) == 1
    assert figures[0] == figures[1]
    assert [result['img_id'] for result in results[0]] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(*results, strict=True):
        assert one['img_id'] == two['img_id']
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one['pred_instances'][key], two['pred_instances'][key])


def test_mmdets_own_tool_gets_the_mends(trained: Path) -> None:
    """A config with ``custom_imports`` is all it needs: ops, and a resume under PyTorch's protection."""
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = start(sys.executable, tool, 'detector.py', '--resume', cwd=trained)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(done.stdout)) == 3


@pytest.mark.parametrize(('words', 'message'), [(['trian'], "error: no tool 'trian'"), ([], '  demo  ')])
def test_mispelt_tool(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmtrtvit', *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    for name, (_, purpose) in _TOOLS.items():
        assert re.search(rf'^  {name} +{re.escape(purpose)}$', said, re.MULTILINE)


@pytest.mark.parametrize('hyphens', [False, True])
@pytest.mark.parametrize('tool', sorted(path.stem for path in TOOLS.glob('*.py') if path.stem != 'setup_env'))
def test_every_tool_is_there_without_a_checkout(
    tool: str, hyphens: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m mmtrtvit TOOL`` is ``tools/TOOL.py``."""
    monkeypatch.setattr(sys, 'argv', ['mmtrtvit', tool.replace('_', '-') if hyphens else tool, '--help'])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: {tool}.py ')
    assert list(_TOOLS).count(tool) == 1
    monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', '--help'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: {tool}.py ')


@pytest.mark.parametrize(('tool', 'extra'), [('benchmark', 'benchmark'), ('deploy', 'deploy'), ('test', 'deploy')])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tool: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnx'", name='onnx')

    monkeypatch.setattr('mmtrtvit.__main__.importlib.import_module', absent)
    monkeypatch.setattr(sys, 'argv', ['mmtrtvit', tool])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = f"error: No module named 'onnx': pip install 'mmtrtvit[{extra}]'\n"
    assert capsys.readouterr().err == said
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
    assert stop.value.code == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize('tool', ['train', 'demo', 'get_flops'])
@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('foo', "--cfg-options: 'foo' is not KEY=VALUE"),
        ('=3', "--cfg-options: '=3' is not KEY=VALUE"),
        ('a=[1,(2', '--cfg-options: Imbalanced brackets exist in [1,(2'),
    ],
)
def test_options_that_are_none(
    tool: str, word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ['--config', 'x.py'] if tool == 'demo' else ['x.py']
    monkeypatch.setattr(sys, 'argv', ['mmtrtvit', tool, *config, '--cfg-options', 'b=1', word])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(('tool', 'words'), [(train, ['--work-dri', 'out']), (evaluate, ['x.pth', '--show', 'out'])])
def test_mispelt_option(tool: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And one of mmdet's that is not here is not taken for a longer one that is."""
    with pytest.raises(SystemExit) as stop:
        tool(['x.py', *words])
    assert stop.value.code == 2
    assert f'unrecognized arguments: {words[-2]}' in capsys.readouterr().err
