"""A run from the command line to its file: real tiny models in ONNX Runtime and PyTorch, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrtvit.apis.model import build_model
from mmtrtvit.benchmark import jobs as module
from mmtrtvit.benchmark.jobs import Job, new_row, options, prepare
from mmtrtvit.benchmark.models import find_model
from mmtrtvit.benchmark.results import Results, Row, read_results
from mmtrtvit.benchmark.run import Pace, Run, compare, file_name
from mmtrtvit.benchmark.subjects import Setting, Subject, _costs, choose_device, multiply_adds
from mmtrtvit.benchmark.timing import Sample
from mmtrtvit.benchmark.tools import options as tool_options
from mmtrtvit.benchmark.tools.benchmark import main, make_jobs, parse_args, run
from mmtrtvit.deploy.backends import Availability
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.errors import UserError
from tests.test_benchmark.test_results import row as made_up
from tests.tiny import make_detector


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_detector(tmp_path_factory.mktemp('detector'))


@pytest.fixture(autouse=True)
def _own_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def measure(jobs: list[Job], folder: Path, pace: Pace, **more: Any) -> tuple[Results, Path]:
    run = Run(pace, folder, **more)
    run.measure([job.entry() for job in jobs], breakdown=True)
    return run.results, run.path


def arguments(config: Path, out: Path, *more: str) -> list[str]:
    return ['--models', str(config), '--shape', '64x96', '--rounds', '3', '--out', str(out), *more]


@pytest.mark.slow
def test_every_part_in_onnx_runtime_and_pytorch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ['backbone', 'network', 'end2end']
    found = run(
        arguments(config, tmp_path, '--parts', *parts, '--backend', 'onnxruntime', 'pytorch', '--batch', '2',
                  '--threads', '1')
    )  # fmt: skip
    assert [(row.backend, row.part) for row in found.rows] == [
        (backend, part) for backend in ('onnxruntime', 'pytorch') for part in parts
    ]
    assert found.failed == []
    model, _ = build_model(find_model(str(config)).cfg, 'none')
    for row in found.rows:
        assert row.input_shape == [2, 3, 64, 96]
        assert row.wall is not None
        assert row.wall.calls == len(row.rounds_ms) == 3
        assert row.wall.median_ms == pytest.approx(np.median(row.rounds_ms), rel=1e-3)
        assert row.images_per_second == pytest.approx(2000 / row.wall.median_ms)
        assert row.peak_memory_mib is not None
        assert (row.device, row.threads, row.weights, row.device_time) == ('cpu', 1, 'random', None)
        assert (row.nodes is not None) == (row.backend == 'onnxruntime')
        assert (row.engine_bytes is not None) == (row.backend == 'onnxruntime')
    backbone, network, end2end = found.rows[:3]
    assert backbone.params == sum(parameter.numel() for parameter in model.backbone.parameters())
    assert network.params == end2end.params == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < (backbone.gflops or 0) < (network.gflops or 0) <= (end2end.gflops or 0)
    assert found.rows[3].gflops == backbone.gflops
    assert backbone.precision_obtained == 'fp32'
    assert backbone.breakdown is None
    assert {'backbone', 'neck', 'heads', 'NMS'} <= set(end2end.breakdown or {})
    assert {'backbone', 'neck', 'heads'} <= set(found.rows[5].breakdown or {})
    assert not any(tmp_path.glob('.engines-*'))
    (path,) = tmp_path.glob('*.json')
    assert read_results(path) == found
    shown = capsys.readouterr().out
    assert path.name in shown.replace('\n', '')
    assert 'onnxruntime' in shown


def test_multiply_adds_count_attention_too() -> None:
    assert multiply_adds(nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.rand(1, 3, 10, 10)) == 8 * 27 * 100

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert multiply_adds(Attention(), torch.rand(1, 2, 5, 4)) == 2 * (5 * 5 * 4) * 2  # two products in two heads
    # 1e13 scores, which no memory holds
    assert multiply_adds(Attention(), torch.rand(100, 1000, 10_000, 1)) == 2 * 100 * 1000 * 10_000**2


@pytest.mark.parametrize('part', ['backbone', 'network', 'end2end'])
def test_multiply_adds_of_what_is_not_computed_are_those_of_what_is(config: Path, part: str) -> None:
    job = Job(find_model(str(config)), part, Setting('pytorch', 'fp32', (64, 96)))
    model, _ = build_model(job.model.cfg, 'none')
    graph = build_part(model, options(job).graph, part)
    image = graph.example_input()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        graph(image)
    assert multiply_adds(graph, image) == counter.get_total_flops() / 2 > 1e6


def test_a_model_that_fails_is_a_row_and_status_1(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / 'broken.py'
    broken.write_text(f"_base_ = {str(config)!r}\nmodel = dict(bbox_head=dict(type='PISARetinaHead'))\n")
    words = arguments(config, tmp_path, '--parts', 'end2end', '--backend', 'pytorch', '--no-breakdown')
    words[1:2] = [str(config), str(broken)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    (path,) = tmp_path.glob('*.json')
    good, bad = read_results(path).rows
    assert good.wall is not None
    assert 'PISARetinaHead' in bad.error
    assert bad.wall is None
    assert 'PISARetinaHead' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--models', 'no-such-model'], 'neither a config file'),
        (['--baseline', 'resnet-50'], 'not among the models'),
        (['--shape', '64'], "'64' is not HxW"),
        (['--shape', '0x64'], "'0x64' is not HxW"),
        (['--rounds', '0'], '--rounds 0'),
        (['--batch', '0'], '--batch 0'),
        (['--parts', 'tail'], 'tail'),
        (['--backend', 'openvino'], 'openvino'),
        (['--checkpoint', 'a.pth', '--models', 'trtvit-a', 'swin-t'], 'single model'),
        (['--checkpoint', 'nowhere.pth'], 'checkpoint not found: nowhere.pth'),
        (['--limit', 'nan'], '--limit nan'),
        (['--device', 'nosuch'], '--device nosuch: '),
        (['--models', 't2t-vit-14'], 'no mask_rcnn config with this backbone; --task imagenet has one'),
        (['--out', __file__], 'test_run.py'),
    ],
)
def test_wrong_words_end_with_status_2(
    words: list[str], said: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments(config, tmp_path / 'out'), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_precisions_that_pytorch_does_not_have(config: Path, tmp_path: Path) -> None:
    model = find_model(str(config))
    for precision, words in (('int8', 'no int8 form'), ('fp16', 'on a GPU only')):
        job = Job(model, 'backbone', Setting('pytorch', precision, (64, 64)))
        with pytest.raises(UserError, match=words):
            prepare(job, new_row(job), tmp_path)


def test_lower_precisions_in_onnx_runtime(config: Path, tmp_path: Path) -> None:
    found = run(
        arguments(config, tmp_path, '--parts', 'backbone', '--backend', 'onnxruntime', '--precision', 'fp16', 'int8')
    )
    assert [(row.precision, row.precision_obtained) for row in found.rows] == [('fp16', 'fp16'), ('int8', 'int8')]
    assert 'timings there tell nothing' in found.rows[0].noise
    for row in found.rows:
        assert (row.precision_share or 0) >= 0.5


def test_an_engine_that_cannot_run_here_still_has_its_layers(config: Path, tmp_path: Path) -> None:
    pytest.importorskip('tensorrt_rtx_bindings', reason='TensorRT-RTX is not installed')
    if torch.cuda.is_available():
        pytest.skip('a GPU is here, where the engine may run')
    job = Job(find_model(str(config)), 'backbone', Setting('tensorrt-rtx', 'fp16', (64, 64)))
    found, _ = measure([job], tmp_path, Pace(1))
    (row,) = found.rows
    assert row.error.startswith('built, not run: ')
    assert (row.layers or 0) > 50
    assert (row.engine_bytes or 0) > 0
    assert row.precision_obtained == 'fp16'
    assert row.build_seconds is not None


@pytest.mark.parametrize(('doubt', 'backend'), [('', 'tensorrt-rtx'), ('not in its list', 'cudagraph')])
def test_a_gpu_that_tensorrt_rtx_does_not_list_is_not_measured_with_it_unasked(
    doubt: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        'tensorrt': Availability('', 'not installed', 'not installed'),
        'tensorrt-rtx': Availability('1.7', doubt=doubt),
    }
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(tool_options, 'get_backend', lambda name: SimpleNamespace(availability=lambda: answers[name]))
    assert tool_options.default_backend() == backend


def test_engines_as_cuda_graphs(config: Path, tmp_path: Path) -> None:
    job = Job(
        find_model(str(config)), 'backbone', Setting('tensorrt', 'fp16', (64, 64), device='cuda:0', cuda_graph=True)
    )
    assert options(job).load.cuda_graph
    assert 'nothing copied, launched as one CUDA graph; ' in new_row(job).inside
    with pytest.raises(UserError, match='--cuda-graph: onnxruntime runs on the CPU here, and CUDA graphs run on a GPU'):
        run(arguments(config, tmp_path, '--backend', 'onnxruntime', '--device', 'cpu', '--cuda-graph'))


def test_a_breakdown_that_fails_is_said_in_its_row() -> None:
    def profile(feed: Any, runs: int) -> Any:
        raise RuntimeError('out of memory')

    row: Any = SimpleNamespace(noise='spread')
    runner: Any = SimpleNamespace(profile=profile)
    assert _costs(row, runner, {}, {}) is None
    assert row.noise == 'spread; no breakdown: RuntimeError: out of memory'


class Fake:
    """Subjects whose latencies are made up."""

    def __init__(self, latencies: dict[str, list[float]], fail: dict[str, BaseException] | None = None) -> None:
        self.latencies = {name: iter(values) for name, values in latencies.items()}
        self.fail = fail or {}
        self.closed: list[str] = []

    def prepare(self, job: Job, row: Row, folder: Path, progress: Callable[[str], None]) -> Subject:
        name = job.model.name
        progress('building')
        (folder / 'engine').write_text('large')
        if name in self.fail:
            raise self.fail[name]

        def call() -> Sample:
            value = next(self.latencies[name], None)
            if value is None:
                raise KeyboardInterrupt
            return Sample(value)

        return Subject(row, call, lambda: {'backbone': 1.0}, lambda: self.closed.append(name))


@pytest.fixture
def jobs(config: Path, tmp_path: Path) -> list[Job]:
    found = []
    for name in ('first', 'second'):
        shutil.copy(config, tmp_path / f'{name}.py')
        model = find_model(str(tmp_path / f'{name}.py'))
        found.append(Job(model, 'end2end', Setting('pytorch', 'fp32', (64, 64))))
    return found


def test_ratios_noise_and_the_file(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({'first': [99, 20, 22, 40], 'second': [99, 10, 11, 20]})
    monkeypatch.setattr(module, 'prepare', fake.prepare)
    steps: list[str] = []
    found, path = measure(
        jobs, tmp_path / 'out', Pace(3, 1), progress=lambda what, done, of: steps.append(what),
        rows_of=lambda rows: compare(rows, 'first'),
    )  # fmt: skip
    first, second = found.rows
    assert first.rounds_ms == [20, 22, 40]
    assert first.ratio is None
    assert second.ratio is not None
    assert (second.ratio.median, second.ratio.p10, second.ratio.p90, second.ratio.baseline) == (2, 2, 2, 'first')
    assert 'percentile' in first.noise
    assert any('2 of 2 timings' in note for note in found.noise)
    assert first.breakdown == {'backbone': 1.0}
    assert fake.closed == ['first', 'second']
    assert read_results(path) == found
    assert {'hardware', 'versions', 'before', 'after', 'others_busy_cores'} <= set(found.conditions)
    assert any('building' in step for step in steps)
    assert any('round 3' in step for step in steps)
    assert list((tmp_path / 'out').iterdir()) == [path]


def test_a_second_run_of_a_day_leaves_the_first(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for _ in range(3):
        monkeypatch.setattr(module, 'prepare', Fake({'first': [1, 1, 1], 'second': [1, 1, 1]}).prepare)
        paths.append(measure(jobs, tmp_path / 'out', Pace(1, 0))[1])
    assert len({*paths}) == 3
    assert paths[2].stem == f'{paths[0].stem}_3'


def test_ctrl_c_keeps_the_rounds_that_were_whole(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'prepare', Fake({'first': [1, 2, 4, 8], 'second': [1, 2, 4]}).prepare)
    found, path = measure(jobs, tmp_path / 'out', Pace(9, 1))
    assert found.interrupted
    assert [row.rounds_ms for row in found.rows] == [[2, 4], [2, 4]]
    assert [row.error for row in found.rows] == ['', '']
    assert read_results(path) == found


def test_ctrl_c_before_the_rounds(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake({'first': []}, {'first': ValueError('no head'), 'second': KeyboardInterrupt()})
    monkeypatch.setattr(module, 'prepare', fake.prepare)
    found, path = measure(jobs, tmp_path / 'out', Pace(2))
    assert found.interrupted
    assert [row.error for row in found.rows] == ['ValueError: no head', 'interrupted before it was measured']
    assert list((tmp_path / 'out').iterdir()) == [path]


def test_status_130_after_ctrl_c(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'prepare', Fake({}, {config.stem: KeyboardInterrupt()}).prepare)
    with pytest.raises(SystemExit) as ended:
        main(arguments(config, tmp_path))
    assert ended.value.code == 130


def test_sigterm_ends_a_run_as_ctrl_c_does(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'prepare', Fake({'first': [1, 2, 4, 8], 'second': [1, 2, 4, 8]}).prepare)
    before = signal.getsignal(signal.SIGTERM)

    def progress(what: str, done: int, of: int) -> None:
        if 'second' in what and 'round 2' in what:
            signal.raise_signal(signal.SIGTERM)

    found, path = measure(jobs, tmp_path / 'out', Pace(3, 1), progress=progress)
    assert found.interrupted
    assert [row.rounds_ms for row in found.rows] == [[2], [2]]
    assert list((tmp_path / 'out').iterdir()) == [path]
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_equal_settings_are_compared() -> None:
    rows = [
        made_up('a', rounds_ms=[4.0]),
        made_up('b', rounds_ms=[2.0]),
        made_up('a', part='backbone', rounds_ms=[1.0]),
        made_up('b', part='network', rounds_ms=[1.0]),
        made_up('b', error='none'),
    ]
    compare(rows, 'a')
    assert [entry.ratio.median if entry.ratio else None for entry in rows] == [None, 2.0, None, None, None]
    other = made_up('c', task='classification', rounds_ms=[1.0])
    compare([*rows, other], 'trtvit-c')
    assert other.ratio is None  # a detector's backbone of that name is no baseline for a classifier
    compare(rows, '')
    assert all(entry.ratio is None for entry in rows)


@pytest.mark.parametrize(
    ('facts', 'name'),
    [
        ({'cpu': 'AMD EPYC 7763 64-Core Processor'}, 'amd-epyc-7763-64-core'),
        ({'cpu': 'Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz'}, 'intel-xeon-e5-2680-v4'),
        ({'cpu': 'x', 'gpu': 'NVIDIA GeForce RTX 4090'}, 'nvidia-geforce-rtx-4090'),
        ({'cpu': '///'}, 'unknown'),
    ],
)
def test_the_file_name_tells_date_hardware_backend_and_precision(facts: dict[str, Any], name: str) -> None:
    run_of = Results(
        '', '2026-01-02T03:04:05+00:00', {'hardware': facts}, 1, 1, 1, [made_up(), made_up(precision='fp16')]
    )
    assert file_name(run_of) == f'2026-01-02_{name}_onnxruntime_fp16+fp32.json'


@pytest.mark.slow
def test_without_arguments_there_is_a_plan_for_this_machine() -> None:
    jobs = make_jobs(parse_args([]))
    assert {job.part for job in jobs} == {'backbone', 'end2end'}
    assert jobs[0].model.name == 'mask_rcnn_trtvit'
    assert any('twins' in job.model.name for job in jobs)
    assert {job.setting.device for job in jobs} == {choose_device(jobs[0].setting.backend)}
    if not torch.cuda.is_available():
        assert {(job.setting.backend, job.setting.precision, job.setting.shape) for job in jobs} == {
            ('onnxruntime', 'fp32', (512, 512))
        }
    classifiers = make_jobs(parse_args(['--task', 'imagenet', '--models', 'trtvit-a']))
    assert {job.setting.shape for job in classifiers} == {(224, 224)}
    by_config = make_jobs(
        parse_args(['--models', 'twins-svt-s_imagenet', 'upernet_twins-svt-s', '--parts', 'backbone'])
    )
    assert [job.setting.shape for job in by_config] == [(224, 224), (512, 512)]


def test_results_are_json_without_nan(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'prepare', Fake({'first': [1, 1], 'second': [1, 1]}).prepare)
    _, path = measure(jobs, tmp_path / 'out', Pace(2, 0))
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
