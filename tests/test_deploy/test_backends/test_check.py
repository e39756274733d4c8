"""The matrix that `tools/check_tensorrt.py` prints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmtrtvit.deploy import pipeline
from mmtrtvit.deploy.backends import BackendError, check, get_backend
from mmtrtvit.deploy.backends.check import CheckResult, check_backend, markdown_table
from mmtrtvit.deploy.backends.tensorrt import TensorRTRTXBackend
from mmtrtvit.deploy.pipeline import deploy
from mmtrtvit.deploy.tools import check_tensorrt
from mmtrtvit.deploy.tools.check_tensorrt import MODELS, check_models, main
from tests.test_deploy.test_backends.fake_tensorrt import Behaviour, FakeModule, pretend_cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason='the whole matrix runs where there is a GPU')
def test_without_a_gpu_rtx_builds_and_the_rest_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('tensorrt_rtx_bindings')
    main(['--backend', 'tensorrt-rtx', '--output', str(tmp_path / 'table.json'), '--work-dir', str(tmp_path)])
    results = json.loads((tmp_path / 'table.json').read_text())['results']
    by_step = {result['step']: result for result in results}
    built = [step for step, result in by_step.items() if step.startswith('build ') and result['status'] == 'ok']
    assert len(built) == 8
    assert '100% of products in fp16 (network)' in by_step['build attention, fp16']['detail']
    assert '100% of products in int8 (network)' in by_step['build convolution, int8']['detail']
    assert all(by_step[step]['status'] == 'not run' for step in by_step if step.startswith('run '))
    assert by_step['CUDA graph']['detail'].startswith('running a TensorRT-RTX engine needs an NVIDIA GPU')
    assert by_step['timing cache']['detail'] == 'tensorrt-rtx has no such option'
    assert '| tensorrt-rtx | build convolution, fp32 | ok |' in capsys.readouterr().out


def test_without_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if get_backend('tensorrt').availability().version:
        pytest.skip('TensorRT is installed here')
    main(['--backend', 'tensorrt', '--output', str(tmp_path / 'table.md')])
    table = (tmp_path / 'table.md').read_text()
    assert capsys.readouterr().out == table
    assert '| tensorrt | library | not run | TensorRT is not installed: pip install' in table
    assert table.endswith('0 ok, 0 FAILED, 2 not run\n')


def test_a_failure_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    module = FakeModule('tensorrt_rtx-1.7')
    module.fails = 'out of | luck'
    results = check_backend(TensorRTRTXBackend(module), tmp_path / 'work')
    failed = [result for result in results if result.status == 'FAILED']
    assert len(failed) >= 8
    assert 'out of | luck' in failed[0].detail
    assert 'out of \\| luck' in markdown_table(results)
    assert next(result for result in results if result.step.startswith('run ')).detail == 'it was not built'


def test_a_gpu_that_the_library_does_not_list_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, (9, 0))
    monkeypatch.setattr(Behaviour, 'runtime_deserialize_cuda_engine', lambda self, content: None)
    results = check_backend(TensorRTRTXBackend(FakeModule('tensorrt_rtx-1.7')), tmp_path / 'refused')
    runs = [result for result in results if result.step.startswith(('run ', 'CUDA graph'))]
    assert {result.status for result in runs} == {'not run'}
    assert re.match(r'Pretended GPU has compute capability 9\.0, .*; tried: .*does not load the engine', runs[0].detail)


def test_a_wrong_result_fails_on_any_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(*arguments: object) -> str:
        raise check._DifferentError('differs from ONNX Runtime by 1')

    pretend_cuda(monkeypatch, (9, 0))
    monkeypatch.setattr(check, '_compare', differ)
    results = check_backend(TensorRTRTXBackend(FakeModule('tensorrt_rtx-1.7')), tmp_path)
    runs = [result for result in results if result.step.startswith('run ') and result.detail != 'it was not built']
    assert {result.status for result in runs} == {'FAILED'}


def test_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CheckResult('tensorrt', 'build', 'FAILED', 'x')
    monkeypatch.setattr(check_tensorrt, 'check_backend', lambda backend, folder: [result])
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 1


def test_a_wrong_result_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison itself: ONNX Runtime against itself passes, against another graph it does not."""
    from mmtrtvit.deploy.backends.check_graphs import make_probe

    backend = get_backend('onnxruntime')
    right, wrong = make_probe('attention', tmp_path / 'a.onnx'), make_probe('attention', tmp_path / 'b.onnx', seed=9)
    load = type(backend).load
    monkeypatch.setattr(type(backend), 'load', lambda self, path, device='cpu', **other: load(self, path, **other))
    monkeypatch.setattr(torch.Tensor, 'to', lambda self, *other: self)
    assert check._compare(backend, right, right, 'attention', 1e-4).startswith('largest difference 0.0e+00')
    with pytest.raises(BackendError, match='differs from ONNX Runtime by'):
        check._compare(backend, wrong, right, 'attention', 1e-4)


@pytest.mark.slow
def test_whole_models(tmp_path: Path) -> None:
    """Built where there is no GPU, and what is to be run there is marked so."""
    pytest.importorskip('tensorrt_rtx_bindings')
    model = 'trtvit/trtvit-a_imagenet'
    results = check_models('tensorrt-rtx', tmp_path / 'work', [model])
    assert [result.step for result in results] == [
        f'{verb} {model}, {precision}' for precision in ('fp32', 'fp16') for verb in ('build', 'run')
    ]
    assert [result.status for result in results[::2]] == ['ok', 'ok']
    assert re.search(r'layers, 100% of products in fp32', results[0].detail)
    if not torch.cuda.is_available():
        assert {result.status for result in results[1::2]} == {'not run'}
        assert results[1].detail.startswith('the tensorrt-rtx engine was not run: running a TensorRT-RTX engine needs')


@pytest.mark.slow
def test_models_that_run_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through ONNX Runtime, which runs everywhere; and one that gives other numbers fails."""
    model = 'trtvit/trtvit-a_imagenet'
    monkeypatch.setattr(check_tensorrt, 'PRECISIONS', ('fp32',))
    monkeypatch.setitem(MODELS, model, ('classification', (64, 64)))
    if not torch.cuda.is_available():
        monkeypatch.setattr(check_tensorrt, 'deploy', lambda *words, device: deploy(*words))
    assert [result.status for result in check_models('onnxruntime', tmp_path / 'a', [model])] == ['ok', 'ok']
    strict = replace(pipeline.TOLERANCES['fp32'], scores=-1.0)
    monkeypatch.setitem(pipeline.TOLERANCES, 'fp32', strict)
    results = check_models('onnxruntime', tmp_path / 'b', [model])
    assert [result.status for result in results] == ['ok', 'FAILED']
    assert re.match(r'scores \d', results[1].detail)


def test_models_where_nothing_can_be_built(tmp_path: Path) -> None:
    if get_backend('tensorrt').availability().can_build:
        pytest.skip('TensorRT builds here: the test is of where it cannot')
    results = check_models('tensorrt', tmp_path)
    assert len(results) == 2 * len(MODELS)
    assert {result.status for result in results} == {'not run'}
