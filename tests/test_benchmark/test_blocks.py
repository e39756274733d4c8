"""Blocks alone: the formulas against numbers worked out by hand, every kind of block, a real tiny run, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmtrtvit.benchmark import probes as probes_module
from mmtrtvit.benchmark.block_kinds import KINDS, OWN_KINDS, WIDTHS, Stack, find_kind, stack_of
from mmtrtvit.benchmark.blocks import block_probes, block_rounds, block_row, block_rows, per_second, stage_size
from mmtrtvit.benchmark.probes import SKIPPED, Probe, ProbeGraph
from mmtrtvit.benchmark.results import Row, read_results
from mmtrtvit.benchmark.run import Pace, Progress, Run
from mmtrtvit.benchmark.subjects import Setting, multiply_adds
from mmtrtvit.benchmark.tools import analyze_blocks
from mmtrtvit.errors import UserError
from mmtrtvit.models.blocks import BLOCK_KINDS, BlockOptions

SETTING = Setting('onnxruntime', 'fp32', (32, 64), threads=1)
PYTORCH = Setting('pytorch', 'fp32', (32, 32), threads=1)


def measure(
    probes: list[Probe], setting: Setting, pace: Pace, folder: Path, progress: Progress = lambda what, done, of: None
) -> Run:
    run = Run(pace, folder, progress=progress, rows_of=block_rows)
    run.measure([probe.entry(setting) for probe in probes])
    return run


@pytest.fixture(autouse=True)
def _own_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bottleneck(width: int, cells: int) -> tuple[int, int]:
    """Parameters with BatchNorm folded, multiply-adds of one image."""
    middle = width // 4
    weights = width * middle + 9 * middle * middle + middle * width
    return weights + 2 * middle + width, cells * weights


def transformer(width: int, cells: int) -> tuple[int, int]:
    projections = 3 * width * width + width * width + 2 * 3 * width * width
    biases = 3 * width + width + 3 * width + width
    return projections + biases + 4 * width, cells * projections + 2 * cells * cells * width


def mixed(width: int, cells: int) -> tuple[int, int]:
    """MixBlockB and C: 1x1 to half, a Transformer and a BottleNeck of half the width, a 1x1 between them."""
    half = width // 2
    parts = transformer(half, cells), bottleneck(half, cells)
    params = width * half + half + half * half + half + sum(part[0] for part in parts)
    return params, cells * (width * half + half * half) + sum(part[1] for part in parts)


HAND = {'BottleNeck': bottleneck, 'Transformer': transformer, 'MixBlockB': mixed, 'MixBlockC': mixed}


@pytest.mark.parametrize('kind', HAND)
@pytest.mark.parametrize(('stage', 'size'), [(1, (6, 5)), (3, (2, 3))])
def test_parameters_and_multiply_adds_are_those_of_the_hand_formula(
    kind: str, stage: int, size: tuple[int, int]
) -> None:
    width = 128 * (stage + 1)
    stack = stack_of(kind, width, stage, 2)
    params, amount = HAND[kind](width, size[0] * size[1])
    assert sum(parameter.numel() for parameter in stack.parameters()) == 2 * params
    assert multiply_adds(stack, torch.zeros(1, width, *size)) == 2 * amount


@pytest.mark.parametrize('name', KINDS)
def test_every_kind_keeps_the_shape_at_every_stage(name: str) -> None:
    for stage, (height, width) in enumerate(((16, 16), (8, 8), (4, 4), (2, 3))):
        stack = stack_of(name, 128, stage, 1)
        with torch.no_grad():
            out = stack(torch.randn(1, 128, height, width))
        assert out.shape == (1, 128, height, width)
        assert bool(torch.isfinite(out).all())


def test_folding_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind with BatchNorm, whose statistics are made anything but 0 and 1."""
    for name in (*OWN_KINDS, 'Next-ViT NCB', 'Next-ViT NTB'):
        torch.manual_seed(0)
        kind = find_kind(name)
        blocks = [module for _ in range(2) for module in kind.make(128, 2)]
        for module in nn.ModuleList(blocks).modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.bias, std=0.2)
        plain = Stack(blocks, kind.layout).eval()
        image = torch.randn(2, 128, 4, 4)
        with torch.no_grad():
            wanted = plain(image)
            with monkeypatch.context() as patch:
                patch.setitem(KINDS, name, replace(kind, make=lambda *_, b=blocks: b))
                folded = stack_of(name, 128, 2, 1)
            torch.testing.assert_close(folded(image), wanted, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) or name.startswith('Next')


def test_the_formulas() -> None:
    # 2 GFLOPs an image, 8 images in 4 ms: 4e12 a second; 5 M parameters: 0.01e12
    assert per_second(2e9, 8, 4.0) == pytest.approx(4.0)
    assert per_second(5_000_000, 8, 4.0) == pytest.approx(0.01)
    assert [stage_size((800, 1344), stage) for stage in range(4)] == [(200, 336), (100, 168), (50, 84), (25, 42)]
    assert stage_size((225, 33), 3) == (8, 2)


def made_up(blocks: int, rounds: list[float], gflops: float, params: int, **extra: Any) -> Row:
    probe = Probe('p', 'BottleNeck', 'block', (64, 4, 4), nn.Identity, extra={'stage': 2, 'blocks': blocks, **extra})
    row = probe.row(Setting('onnxruntime', 'fp32', (32, 32), batch=2))
    row.rounds_ms, row.gflops, row.params = rounds, gflops, params
    return row


def test_the_latency_of_a_block_is_the_difference_of_two_stacks() -> None:
    """Stacks of 5 and 1 with 0.5 ms that every engine pays; one round is disturbed, in both stacks alike."""
    deep = made_up(5, [10.5, 30.5, 10.5], 5.0, 500)
    single = made_up(1, [2.5, 6.5, 2.5], 1.0, 100)
    row = block_row(deep, single)
    assert block_rounds(row) == [2.0, 6.0, 2.0]
    assert row.extra['block_ms'] == 2.0
    assert (row.extra['block_gflops'], row.extra['block_params']) == (1.0, 100)
    assert row.extra['teraflops'] == pytest.approx(1e9 * 2 / 2e-3 / 1e12)
    assert row.extra['teraparams'] == pytest.approx(100 * 2 / 2e-3 / 1e12)
    assert 'teraflops' not in deep.extra


def test_a_single_block_is_measured_with_all_that_an_engine_pays() -> None:
    row = made_up(1, [3.0, 3.0, 3.0], 1.0, 100)
    assert block_rows([row])[0].extra['block_ms'] == 3.0


def test_a_difference_that_is_not_positive_gives_no_number() -> None:
    row = block_row(made_up(3, [2.0, 2.0, 2.0], 3.0, 300), made_up(1, [2.1, 2.0, 2.2], 1.0, 100))
    assert 'teraflops' not in row.extra
    assert 'take more --rounds' in row.noise


@pytest.mark.slow
def test_a_real_run_of_two_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ['--backend', 'onnxruntime', '--shape', '32x64', '--kinds', 'bottleneck', 'PoolFormer', '--stages',
                 '3', '--depth', '3', '--rounds', '3', '--threads', '1', '--channels', '64', '64', '64', '64', '--out',
                 str(tmp_path)]  # fmt: skip
    outcome = analyze_blocks.run(arguments)
    assert outcome.path.name.endswith('_onnxruntime_fp32_blocks.json')
    found = read_results(outcome.path)
    assert [(row.model, row.task, row.part) for row in found.rows] == [
        ('BottleNeck', 'block', 'block'), ('PoolFormer', 'block', 'block'),
    ]  # fmt: skip
    assert found.failed == []
    params, amount = bottleneck(64, 2 * 4)
    first = found.rows[0]
    assert first.input_shape == [1, 64, 2, 4]
    assert first.extra['block_params'] == params
    assert first.extra['block_gflops'] == pytest.approx(amount / 1e9)
    assert first.extra['stage'] == 3
    assert first.extra['blocks'] == 3
    assert first.params == 3 * params
    assert len(first.rounds_ms) == len(first.extra['single_rounds_ms']) == 3
    latency = first.extra['block_ms']
    deep, one = first.rounds_ms, first.extra['single_rounds_ms']
    assert latency == pytest.approx(sorted((a - b) / 2 for a, b in zip(deep, one, strict=True))[1], abs=1e-5)
    assert 'python tools/analyze_blocks.py --backend onnxruntime' in found.command
    assert not list(tmp_path.glob('.engines-*'))
    if latency > 0:
        assert first.extra['teraflops'] == pytest.approx(amount / (latency / 1000) / 1e12)
        assert outcome.path.with_suffix('.png').stat().st_size > 1000
    text = capsys.readouterr().out
    assert 'TeraFLOPS' in text
    analyze_blocks.main(['show', str(outcome.path)])
    assert 'PoolFormer' in capsys.readouterr().out


def test_pytorch_runs_the_same_stack(tmp_path: Path) -> None:
    probes = block_probes(['MixBlockC', 'mixblockc'], [3, 3], (32, 32), 1, (64, 64, 64, 64))
    (row,) = measure(probes, replace(PYTORCH, batch=2), Pace(2, 1), tmp_path).results.rows
    assert row.error == ''
    assert row.images_per_second is not None
    assert row.input_shape == [2, 64, 1, 1]


def test_a_graph_of_a_stack_computes_what_the_stack_does() -> None:
    stack = stack_of('MixBlockA', 64, 3, 1)
    graph = ProbeGraph(stack, (64, 3, 5), 2).eval()
    image = graph.example_input()
    assert image.shape == (2, 64, 3, 5)
    with torch.no_grad():
        assert torch.equal(graph(image)[0], stack(image))


def test_what_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    def broken() -> nn.Module:
        raise UserError('no such thing')

    probes = [
        Probe('a', 'A', 'block', (64, 2, 2), broken, extra={'stage': 1, 'blocks': 1, 'width': 64}),
        *block_probes(['BottleNeck'], [3], (32, 32), 1, (64, 64, 64, 64)),
    ]
    run = measure(probes, PYTORCH, Pace(1, 0), tmp_path)
    assert [row.error for row in run.results.rows] == ['no such thing', '']


def test_ctrl_c_keeps_the_rounds_measured(tmp_path: Path) -> None:
    def progress(what: str, done: int, of: int) -> None:
        if 'round 3' in what:
            raise KeyboardInterrupt

    probes = block_probes(['BottleNeck'], [3], (32, 32), 2, (64, 64, 64, 64))
    run = measure(probes, PYTORCH, Pace(9, 0), tmp_path, progress)
    found = read_results(run.path)
    assert found.interrupted
    assert len(found.rows[0].rounds_ms) == 2
    assert found.rows[0].extra['block_params'] > 0


def test_attention_that_no_memory_holds_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, 'free_memory', lambda: 2.0**30)
    # 64x64 cells, 8 heads: 4096**2 * 8 scores of 4 bytes, twice: 1 GiB, above half of what is free
    assert find_kind('Transformer').scores(256, 0, 64 * 64) == 8 * 4096**2
    run = measure(block_probes(['Transformer'], [0], (256, 256), 2), SETTING, Pace(1, 0), tmp_path)
    (row,) = run.results.rows
    assert 'needs 1.0 GiB' in row.error
    assert row.extra[SKIPPED]


def test_weights_that_no_memory_holds_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, 'free_memory', lambda: 1000.0)
    run = measure(block_probes(['BottleNeck'], [3], (32, 32), 1, (64, 64, 64, 64)), SETTING, Pace(1, 0), tmp_path)
    assert 'fewer --kinds' in run.results.rows[0].error


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--kinds', 'BotleNeck'], 'did you mean BottleNeck'),
        (['--shape', '512'], "'512' is not HxW"),
        (['--shape', '16x512'], '--shape 16x512: at least 32 each'),
        (['--stages', '5'], 'invalid choice: 5'),
        (['--depth', '0'], '--depth 0: at least 1'),
        (['--rounds', '0'], '--rounds 0: at least 1'),
        (['--limit', 'nan'], '--limit nan'),
        (['--precision', 'int8'], "invalid choice: 'int8'"),
        (['--backend', 'onnx'], "invalid choice: 'onnx'"),
        (['--search'], '--search needs --budget-ms'),
        (['--search', '--budget-ms', '-1'], 'above 0'),
        (['--search', '--guidelines'], 'not allowed with'),
        (['--search', '--budget-ms', '5', '--kinds', 'Swin'], 'leave --kinds out'),
        (['--budget-ms', '5'], '--budget-ms is for --search'),
        (['--search', '--budget-ms', '5', '--min-depths', *'3333', '--max-depths', *'4422'], 'must not lie above'),
        (['--search', '--budget-ms', '5', '--min-depths', *'3033'], '--min-depths 0: at least 1'),
        (['--device', 'nosuch'], '--device nosuch: '),
        (['show', 'nowhere.json'], 'nowhere.json: no such file'),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = [] if arguments[0] == 'show' else ['--out', str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        analyze_blocks.main([*arguments, *out])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_width_that_a_block_cannot_have_is_a_row_with_a_clear_error(tmp_path: Path) -> None:
    run = measure(
        block_probes(['Transformer', 'Swin', 'MixBlockC'], [3], (32, 32), 1, (8, 8, 8, 40)),
        SETTING,
        Pace(1, 0),
        tmp_path,
    )
    assert len(run.results.rows) == 3
    for row in run.results.rows:
        assert row.error.startswith(f'{row.model}: no block of 40 channels'), row.error


def test_results_of_another_tool_are_refused(tmp_path: Path) -> None:
    run = measure([], SETTING, Pace(1, 0), tmp_path)
    assert json.loads(run.path.read_text())['schema'] == 'mmtrtvit-benchmark'
    with pytest.raises(UserError, match='no blocks were measured'):
        analyze_blocks.show_file([str(run.path)])


def test_the_widths_are_trt_vit_c_s() -> None:
    assert WIDTHS == (256, 512, 1024, 1536)
    assert set(BLOCK_KINDS) <= set(KINDS)
    assert BlockOptions().head_dim == 32
