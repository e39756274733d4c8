"""The verdicts on made-up latencies whose answer is known, and the networks that they are about."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmtrtvit.benchmark import guidelines as module
from mmtrtvit.benchmark.block_report import markdown, put_into
from mmtrtvit.benchmark.blocks import block_row
from mmtrtvit.benchmark.guidelines import (
    NETWORKS,
    REDEPTHED,
    Check,
    Network,
    guidelines,
    network_probes,
    verdict_of,
)
from mmtrtvit.benchmark.probes import Probe
from mmtrtvit.benchmark.results import Results, Row, Timing, read_results
from mmtrtvit.benchmark.run import Pace, Run
from mmtrtvit.benchmark.subjects import Setting, multiply_adds
from mmtrtvit.errors import UserError

ROOT = Path(__file__).parents[2]
SETTING = Setting('onnxruntime', 'fp32', (64, 64))
KINDS = ('BottleNeck', 'Transformer', 'MixBlockA', 'MixBlockB', 'MixBlockC')


@pytest.mark.parametrize(
    ('ratios', 'threshold', 'verdict'),
    [
        ([1.2, 1.3, 1.1, 1.25, 1.2, 1.2], 1.0, 'holds'),
        ([0.8, 0.9, 0.85, 0.8, 0.7, 0.9], 1.0, 'does not'),
        ([0.9, 1.2, 1.1, 0.95, 1.3, 1.2], 1.0, 'unclear'),
        ([0.97, 0.98, 0.96, 0.99, 0.98, 0.97], 0.95, 'holds'),
        ([0.97, 0.98, 0.96, 0.99, 0.98, 0.97], 1.0, 'does not'),
        ([1.2, 1.3, 1.1, 1.25, 1.2], 1.0, 'unclear'),  # five of one side are 1 in 16 for a median of 1
        ([1.0] * 9, 1.0, 'unclear'),
        # a quarter of the rounds was disturbed: the median is sure all the same, with forty rounds and not with eight
        ([1.2] * 30 + [0.5] * 10, 1.0, 'holds'),
        ([1.2] * 6 + [0.5] * 2, 1.0, 'unclear'),
    ],
)
def test_a_check(ratios: list[float], threshold: float, verdict: str) -> None:
    assert Check('', ratios, threshold).verdict == verdict


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    found = [Check('', random.lognormal(0, 1, 15)).interval for _ in range(400)]
    inside = np.mean([low <= 1 <= high for low, high in found])
    assert 0.93 < inside <= 1
    # ranks 4 and 12 of 15: the binomial's tails below them are 1.8 % each, with 5 they would be 5.9 %
    ratios = list(random.lognormal(0, 1, 15))
    assert Check('', ratios).interval == (sorted(ratios)[3], sorted(ratios)[11])


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_a_ratio_and_its_inverse_never_hold_both(ratios: list[float]) -> None:
    one, other = Check('', ratios).verdict, Check('', [1 / ratio for ratio in ratios]).verdict
    assert (one, other) != ('holds', 'holds')
    assert one != 'holds' or min(ratios) < max(ratios) or ratios[0] > 1


def test_a_guideline_holds_when_all_checks_do() -> None:
    assert verdict_of(['holds', 'holds']) == 'holds'
    assert verdict_of(['does not', 'does not']) == 'does not'
    assert verdict_of(['holds', 'does not']) == 'unclear'
    assert verdict_of(['holds', 'unclear']) == 'unclear'
    assert verdict_of([]) == 'unclear'


def block(kind: str, stage: int, milliseconds: float, gflops: float = 1.0, params: int = 100, rounds: int = 6) -> Row:
    """A block of that latency in an engine that pays 3 ms besides, by stacks of 3 and 1."""
    rows = []
    for blocks in (3, 1):
        extra = {'stage': stage, 'blocks': blocks, 'width': 64}
        row = Probe(kind, kind, 'block', (64, 8, 8), nn.Identity, extra=extra).row(SETTING)
        row.rounds_ms = [3 + blocks * milliseconds * (1 + 0.01 * number) for number in range(rounds)]
        row.wall = Timing.of(row.rounds_ms)
        row.gflops, row.params = blocks * gflops, blocks * params
        rows.append(row)
    return block_row(*rows)


def network(name: str, milliseconds: float, gflops: float = 4.0, params: int = 25_000_000) -> Row:
    row = Probe(name, name, 'backbone', (3, 64, 64), nn.Identity).row(SETTING)
    row.rounds_ms = [milliseconds * (1 + 0.01 * number) for number in range(6)]
    row.wall = Timing.of(row.rounds_ms)
    row.gflops, row.params = gflops, params
    return row


def paper() -> list[Row]:
    """A machine on which everything is as the paper says."""
    rows = []
    for stage in (1, 2, 3, 4):
        rows.append(block('BottleNeck', stage, 1.0))
        rows.append(block('Transformer', stage, 10.0 / stage))
        rows += [block(f'MixBlock{letter}', stage, 2.0 / stage) for letter in 'ABC']
    times = {'ResNet': 10.0, 'MixNetV': 12.0, 'MixNetV, stages 3-4': 14.0, 'MixNetV, stages 2-4': 18.0}
    rows += [network(name, time) for name, time in times.items()]
    rows.append(network('ViT-like', 30.0))
    for usual, moved in REDEPTHED:
        if usual.name != 'MixNetV':
            rows.append(network(usual.name, 12.0))
        rows.append(network(moved.name, 11.0, params=40_000_000))
    return rows


def test_a_machine_as_the_paper_says() -> None:
    found = guidelines(paper())
    assert [guideline.verdict for guideline in found] == ['holds'] * 4
    assert [guideline.missing for guideline in found] == [[], [], [], []]
    first = {check.text: check.numbers[1] for check in (*found[0].checks, *found[0].beside)}
    # a Transformer of 10 / stage ms beside a BottleNeck of 1 ms: 0.1 x stage of its TeraFLOPS
    assert first['TeraFLOPS of Transformer / BottleNeck, stage 3'] == pytest.approx(0.3)
    assert first['TeraFLOPS of Transformer / BottleNeck: stage 4 over stage 1'] == pytest.approx(4.0)
    assert first['TeraFLOPS of MixNetV / ViT-like'] == pytest.approx(30 / 12)
    second = {check.text: check.numbers[1] for check in found[1].checks}
    assert second['TeraFLOPS of ResNet-50 as 2-2-6-6 / as 3-4-6-3'] == pytest.approx(12 / 11)
    assert second['TeraParams of PVT-Small as 2-2-6-8 / as 3-4-6-3'] == pytest.approx(12 / 11 * 40 / 25)
    assert [check.numbers[1] for check in found[2].checks] == pytest.approx([5.0] * 6)


def test_a_machine_that_contradicts() -> None:
    rows = [row for row in paper() if row.model not in ('Transformer', 'MixBlockC', 'ResNet-50 re-depthed', 'ViT-like')]
    rows += [block('Transformer', stage, 1.0 * stage) for stage in (1, 2, 3, 4)]
    rows += [block('MixBlockC', stage, 2.2 / stage) for stage in (1, 2, 3, 4)]
    rows += [network('ResNet-50 re-depthed', 30.0, params=40_000_000), network('ViT-like', 11.0)]
    found = guidelines(rows)
    assert found[0].verdict == 'does not'
    assert found[1].verdict == 'unclear'  # PVT and MixNetV gain, ResNet-50 does not
    assert {check.verdict for check in found[1].checks if 'ResNet' in check.text} == {'does not'}
    assert found[3].verdict == 'does not'  # C takes 1.1 times as long as B
    assert all('accura' in guideline.untested for guideline in found)


def test_what_was_not_measured_is_said() -> None:
    rows = paper()
    for row in rows:
        if (row.model, row.extra.get('stage')) == ('Transformer', 1) or row.model == 'ViT-like':
            row.error, row.rounds_ms = 'left out: too large', []
    first = guidelines(rows)[0]
    assert first.missing == ['Transformer, stage 1: left out: too large', 'ViT-like: left out: too large']
    assert [check.text for check in first.checks] == [
        'TeraFLOPS of Transformer / BottleNeck: stage 4 over stage 2',
        'TeraFLOPS of Transformer / BottleNeck: stage 4 over stage 3',
        'TeraFLOPS of MixNetV / MixNetV, stages 2-4',
    ]
    assert first.verdict == 'holds'
    nothing = guidelines([])
    assert [guideline.verdict for guideline in nothing] == ['unclear'] * 4
    assert all(guideline.missing for guideline in nothing)


def test_a_round_without_a_latency_is_left_out_of_every_ratio() -> None:
    """Ratios of different stages are of one round, also after a round that gave no latency of one of them."""
    rows, times = paper(), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    for row in rows:
        if row.part == 'block' and row.model in ('Transformer', 'BottleNeck') and row.extra['stage'] in (1, 4):
            slow = 2.0 if row.model == 'Transformer' and row.extra['stage'] == 1 else 1.0
            blocks = row.extra['blocks']
            # the machine slows down from round to round for Transformer blocks; stage 1 loses its third round
            pace = times if row.model == 'Transformer' else [1.0] * 7
            row.extra['single_rounds_ms'] = [0.0] * 7
            row.rounds_ms = [slow * value * (blocks - 1) for value in pace]
            if slow == 2.0:
                row.rounds_ms[2] = 0.0
    gap = next(check for check in guidelines(rows)[0].checks if 'stage 4 over stage 1' in check.text)
    assert len(gap.ratios) == 7
    assert len(gap.measured) == 6
    assert gap.measured == pytest.approx([gap.measured[0]] * 6), 'paired within rounds, the pace cancels out'


def test_five_rounds_are_too_few() -> None:
    rows = [block(kind, stage, 1.0 + 0.5 * len(kind), rounds=5) for kind in KINDS for stage in (1, 2, 3, 4)]
    assert guidelines(rows)[2].verdict == 'unclear'


@pytest.mark.parametrize(('usual', 'moved'), REDEPTHED, ids=lambda network: network.name)
def test_re_depthed_networks_have_equal_gflops(usual: Network, moved: Network) -> None:
    with torch.device('meta' if usual.blocks else 'cpu'):  # PVT reads numbers off tensors while it is built
        built = [network.build().to('meta') for network in (usual, moved)]
    for side in (224, 512):
        before, after = (multiply_adds(network, torch.zeros(1, 3, side, side, device='meta')) for network in built)
        assert after / before == pytest.approx(1, abs=0.03)
    assert sum(moved.depths[2:]) > sum(usual.depths[2:]) or moved.depths[3] > usual.depths[3]
    assert sum(moved.depths[:2]) < sum(usual.depths[:2])


def test_the_networks() -> None:
    by_name = {network.name: network for network in NETWORKS}
    assert len(by_name) == len(NETWORKS) == 10
    assert by_name['ViT-like'].blocks == ('Transformer',) * 4
    assert by_name['MixNetV'].blocks == ('BottleNeck',) * 3 + ('Transformer',)
    probes = {probe.name: probe for probe in network_probes((224, 224))}
    # 3136 tokens in stage 1, 8 heads; 49 in stage 4, 48 heads
    assert probes['ViT-like'].scores == 8 * 3136**2
    assert probes['MixNetV'].scores == 48 * 49**2
    assert probes['ResNet'].scores == probes['PVT-Small'].scores == 0


def test_the_whole_way_with_tiny_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as they come out of a run are what the verdicts read."""
    tiny = [Network(name, (1, 1, 1, 1), ('BottleNeck',) * 4, (64, 64, 64, 64)) for name in ('ResNet', 'MixNetV')]
    monkeypatch.setattr(module, 'NETWORKS', tuple(tiny))
    setting = Setting('pytorch', 'fp32', (32, 32), threads=1)
    run = Run(Pace(5, 1), tmp_path, command='python x.py', suffix='_guidelines')
    before = torch.get_num_threads()
    run.measure([probe.entry(setting) for probe in network_probes((32, 32))])
    torch.set_num_threads(before)
    assert run.results.failed == []
    first = guidelines(run.results.rows)[0]
    assert [check.text for check in first.beside] == ['TeraFLOPS of MixNetV / ResNet']
    assert 0.05 < first.beside[0].numbers[1] < 20
    text = markdown(run.results)
    assert '**1. Transformer blocks belong in late stages: unclear.**' in text
    assert '```\npython x.py\n```' in text
    assert 'Not tested: the accuracy' in text


def run_of(rows: list[Row]) -> Results:
    facts = {'hardware': {'cpu': 'Example CPU', 'cores': 2}, 'versions': {'mmtrtvit': '1', 'torch': '2'}}
    return Results('python tools/analyze_blocks.py', '2026-01-01T00:00:00+00:00', facts, 6, 1, 1, rows)


def test_a_run_goes_into_a_document(tmp_path: Path) -> None:
    document = tmp_path / 'a.md'
    document.write_text('before\n<!-- blocks: begin -->\nold\n<!-- blocks: end -->\nafter\n')
    rows = [row for row in paper() if row.part == 'block']
    for _ in range(2):  # a second time changes nothing
        put_into(run_of(rows), Path('x/file.json'), document)
        text = document.read_text()
        assert text.startswith('before\n<!-- blocks: begin -->\nResults: `file.json`. Example CPU, 2 cores')
        assert text.endswith('<!-- blocks: end -->\nafter\n')
        assert 'old' not in text
        # 1 GFLOP in 10 / 4 ms, and the rounds are 0 to 5 % slower
        assert re.search(r'\| Transformer \| 10.250 \| 5.125 \| 3.417 \| 2.562 \|', text)
        assert '| Transformer | 0.0976 | 0.1951 | 0.2927 | 0.3902 |' in text
    assert (tmp_path / 'images' / 'blocks.png').stat().st_size > 1000
    with pytest.raises(UserError, match='has no marks "<!-- guidelines: begin -->"'):
        put_into(run_of(paper()), Path('file.json'), document)
    with pytest.raises(UserError, match='a search has no place'):
        put_into(run_of([network('TRTViT 1-1-1-1', 3.0)]), Path('file.json'), document)


@pytest.mark.parametrize('name', ['blocks', 'guidelines'])
def test_the_document_says_what_the_kept_results_say(name: str, tmp_path: Path) -> None:
    text = (ROOT / 'docs' / 'guidelines.md').read_text()
    found = re.search(f'<!-- {name}: begin -->\nResults: `([^`]+)`', text)
    assert found is not None, f'docs/guidelines.md holds no {name}'
    copy = tmp_path / 'guidelines.md'
    copy.write_text(text)
    source = ROOT / 'benchmarks' / 'results' / found[1]
    put_into(read_results(source), source, copy)
    assert copy.read_text() == text
