"""The search for depths: against brute force, its bounds, and one real proposal that is built."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtrtvit.benchmark.results import read_results
from mmtrtvit.benchmark.search import Costs, best_depths
from mmtrtvit.benchmark.tools import analyze_blocks
from mmtrtvit.errors import UserError
from mmtrtvit.models import TRTViT

COSTS = Costs(10.0, (1.0, 1.0, 2.0, 4.0), 100, (10, 10, 10, 50))

milliseconds = st.integers(1, 40).map(lambda quarters: quarters / 4)
values = st.integers(1, 60)


@given(
    base=milliseconds,
    cost=st.tuples(milliseconds, milliseconds, milliseconds, milliseconds),
    value=st.tuples(values, values, values, values),
    low=st.tuples(*[st.integers(1, 3)] * 4),
    more=st.tuples(*[st.integers(0, 3)] * 4),
    budget=st.integers(1, 300).map(lambda quarters: quarters / 4),
)
def test_nothing_that_brute_force_finds_is_better(
    base: float, cost: tuple[float, float, float, float], value: tuple[int, int, int, int],
    low: tuple[int, ...], more: tuple[int, ...], budget: float,
) -> None:  # fmt: skip
    costs = Costs(base, cost, 7, value)
    high = [few + extra for few, extra in zip(low, more, strict=True)]
    ranges = [range(few, many + 1) for few, many in zip(low, high, strict=True)]
    fitting = [depths for depths in itertools.product(*ranges) if costs.latency(depths) <= budget]
    if not fitting:
        with pytest.raises(UserError, match='alone take'):
            best_depths(costs, budget, low, high)
        return
    found = best_depths(costs, budget, low, high)
    most = max(costs.value(depths) for depths in fitting)
    fastest = min(costs.latency(depths) for depths in fitting if costs.value(depths) == most)
    assert found.depths in fitting
    assert found.value == costs.value(found.depths) == most
    assert found.latency_ms == costs.latency(found.depths) == fastest


def test_the_sum_by_hand() -> None:
    assert COSTS.latency((2, 3, 1, 2)) == 10 + 1 + 2 + 0 + 4
    assert COSTS.value((2, 3, 1, 2)) == 100 + 10 + 20 + 0 + 50
    found = best_depths(COSTS, 20.0, max_depths=(3, 3, 3, 3))
    # two more of stage 4 bring 100 for 8 ms; 2 ms are left: two of stages 1 and 2, the later one first
    assert found.depths == (1, 3, 1, 3)
    assert found.value == 220
    assert found.latency_ms == 20.0


@pytest.mark.parametrize(
    ('costs', 'budget', 'low', 'high', 'message'),
    [
        (COSTS, 9.0, (1, 1, 1, 1), (3, 3, 3, 3), r'--budget-ms 9: depths 1, 1, 1, 1 alone take 10 ms'),
        (COSTS, float('nan'), (1, 1, 1, 1), (3, 3, 3, 3), '--budget-ms nan'),
        (COSTS, 99.0, (2, 1, 1, 1), (1, 3, 3, 3), 'the first not above the second'),
        (COSTS, 99.0, (0, 1, 1, 1), (3, 3, 3, 3), 'at least 1'),
        (COSTS, 99.0, (1, 1, 1, 1), (999, 999, 999, 9), 'too many combinations'),
        (Costs(1.0, (1.0, -0.1, 1.0, 1.0), 1, (1, 1, 1, 1)), 99.0, (1, 1, 1, 1), (3, 3, 3, 3), 'too noisy'),
    ],
)
def test_bad_costs_and_bounds(
    costs: Costs, budget: float, low: tuple[int, ...], high: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        best_depths(costs, budget, low, high)


def arguments(out: Path, *more: str) -> list[str]:
    return ['--search', '--backend', 'pytorch', '--shape', '32x32', '--depth', '4', '--rounds', '5', '--threads', '1',
            '--channels', '64', '64', '64', '64', '--max-depths', '1', '1', '2', '2',
            '--out', str(out), *more]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_proposal_is_built_and_measured(tmp_path: Path) -> None:
    outcome = analyze_blocks.run(arguments(tmp_path, '--budget-ms', '100000', '--maximise', 'params'))
    rows = read_results(outcome.path).rows
    built = rows[-1]
    assert built.part == 'backbone'
    assert built.extra['depths'] == [1, 1, 2, 2]  # with any budget: as deep as allowed
    arch = {key: built.extra[key] for key in ('channels', 'depths', 'blocks')}
    reference = TRTViT(arch).switch_to_deploy()
    assert built.params == sum(parameter.numel() for parameter in reference.parameters())
    assert built.latency is not None
    predicted = built.extra['predicted_ms']
    assert built.extra['prediction_error'] == pytest.approx(predicted / built.latency.median_ms - 1, abs=1e-3)
    base = next(row for row in rows if row.model == 'TRTViT 1-1-1-1')
    blocks = [row.extra['block_ms'] for row in rows if row.part == 'block'][2:]
    assert base.latency is not None
    assert predicted == pytest.approx(base.latency.median_ms + sum(blocks), abs=1e-3)
    assert "'depths': (1, 1, 2, 2)" in outcome.proposal['for a config']
    assert outcome.broken == ''


def test_a_broken_budget_is_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs of nothing make the search believe that everything fits."""
    nothing = Costs(1e-6, (1e-9, 1e-9, 1e-9, 1e-9), 1, (1, 1, 1, 1))
    monkeypatch.setattr(analyze_blocks, 'measured_costs', lambda args, results: nothing)
    with pytest.raises(SystemExit) as ended:
        analyze_blocks.main(arguments(tmp_path, '--budget-ms', '0.001', '--rounds', '1'))
    assert ended.value.code == 1


@pytest.mark.slow
def test_a_budget_that_nothing_fits_names_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        analyze_blocks.main(arguments(tmp_path, '--budget-ms', '0.0001', '--rounds', '1'))
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert '_search.json)' in text
