"""The schema: what is written comes back, what is not understood is refused with its place."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrtvit.benchmark.results import (
    SCHEMA,
    SCHEMA_VERSION,
    Ratio,
    Results,
    Row,
    Timing,
    read_results,
    write_results,
)
from mmtrtvit.errors import UserError

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'benchmark.md'


def row(model: str = 'retinanet_trtvit', **changed: Any) -> Row:
    facts: dict[str, Any] = dict(
        model=model, config=f'configs/{model}.py', backbone='trtvit-c', task='detection', part='end2end',
        backend='onnxruntime', backend_version='1.2', device='cpu', precision='fp32', input_shape=[2, 3, 64, 96],
        inside='everything',
    )  # fmt: skip
    return Row(**(facts | changed))


def results(*rows: Row) -> Results:
    return Results(
        'python tools/benchmark.py', '2026-01-02T03:04:05+00:00', {'hardware': {'cpu': 'x'}}, 3, 1, 1, list(rows)
    )


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    full = row(
        wall=Timing.of([3.0, 1.0, 2.0]), device_time=Timing.of([1.0]), rounds_ms=[3.0, 1.0, 2.0],
        ratio=Ratio.of('b', [2.0], [1.0]), breakdown={'backbone': 1.5}, params=3, gflops=0.5, extra={'stage': 4},
    )  # fmt: skip
    run = results(full, row('b', error='no <such> model', threads=2))
    path = write_results(run, tmp_path / 'deep' / 'run.json')
    assert read_results(path) == run
    assert json.loads(path.read_text())['schema'] == SCHEMA


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30))
def test_timing_is_numpys(values: list[float]) -> None:
    timing = Timing.of(values)
    assert timing.median_ms == pytest.approx(np.median(values))
    assert timing.min_ms <= timing.p10_ms <= timing.median_ms <= timing.p90_ms <= max(values)
    assert timing.calls == len(values)
    assert timing.spread == pytest.approx((timing.p90_ms - timing.p10_ms) / timing.median_ms)


def test_ratio_pairs_the_rounds() -> None:
    """A machine that becomes ten times slower half-way changes both sides: the ratio stays."""
    base, own = [20.0, 21.0, 200.0, 210.0], [10.0, 10.5, 100.0, 105.0]
    ratio = Ratio.of('base', base, own)
    assert (ratio.median, ratio.p10, ratio.p90, ratio.rounds) == pytest.approx((2, 2, 2, 4))
    assert np.median(base) / np.median(own) == pytest.approx(2, rel=0.1)  # the medians alone would agree here by luck
    assert Ratio.of('base', [3.0, 1.0, 9.0], [1.0, 1.0]).rounds == 2


def test_the_setting_decides_what_may_be_compared() -> None:
    assert row('a').setting == row('b').setting
    for changed in ({'part': 'backbone'}, {'backend': 'pytorch'}, {'precision': 'fp16'}, {'device': 'cuda:0'},
                    {'input_shape': [1, 3, 64, 96]}, {'threads': 1}):  # fmt: skip
        assert row(**changed).setting != row().setting
    assert len({row().key, row('b').key, row(extra={'stage': 1}).key}) == 3


def damage(**changed: Any) -> dict[str, Any]:
    values = results(row(wall=Timing.of([1.0]))).to_dict()
    return values | changed


def damaged_row(**changed: Any) -> dict[str, Any]:
    values = damage()
    values['rows'][0] |= changed
    return values


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ([], 'no file of results'),
        ({'a': 1}, 'no file of results'),
        (damage(schema='other'), 'no file of results'),
        (damage(schema_version=99), 'schema_version=99'),
        (damage(schema_version=None), 'schema_version=None'),
        (damage(rounds='3'), "rounds='3' is not of the type int"),
        (damage(rounds=True), 'rounds=True is not of the type int'),
        (damage(rows={}), 'rows={} is not of the type list'),
        (damage(surplus=1), 'surplus is no field'),
        (damaged_row(surplus=1), r'rows\[0\].surplus is no field'),
        (damaged_row(input_shape=[1, 'x']), r"rows\[0\].input_shape\[1\]='x'"),
        (damaged_row(wall={'median_ms': 1}), r'rows\[0\].wall.p10_ms is missing'),
        (damaged_row(wall=3), r'rows\[0\].wall is not an object'),
        (damaged_row(breakdown={'backbone': 'fast'}), r"rows\[0\].breakdown\['backbone'\]='fast'"),
        (damaged_row(model=None), r'rows\[0\].model=None'),
        (damaged_row(gflops=float('nan')), r'rows\[0\].gflops=nan is no finite number'),
        (damaged_row(breakdown={'backbone': float('inf')}), r"rows\[0\].breakdown\['backbone'\]=inf is no finite"),
        (damaged_row(gflops=10**400), 'too large'),
        (damaged_row(rounds_ms=[1, 0]), r'rows\[0\].rounds_ms\[1\]=0.0 is no latency'),
        (damaged_row(wall=asdict(Timing.of([1.0])) | {'p10_ms': -1}), r'rows\[0\].wall.p10_ms=-1.0 is no latency'),
        (damaged_row(input_shape=[]), r'rows\[0\].input_shape=\[\] is not four sizes'),
        (damaged_row(input_shape=[1, 3, 0, 64]), r'is not four sizes of at least 1'),
    ],
)
def test_foreign_files_are_refused_with_the_place(values: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / 'run.json'
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=words) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe', b'[1, 2', b'[' * 100_000])
def test_files_that_are_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'run.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'run\.json'):
        read_results(path)
    with pytest.raises(UserError, match='no such file'):
        read_results(tmp_path / 'other.json')


def test_whole_numbers_serve_as_floats(tmp_path: Path) -> None:
    values = damaged_row(gflops=3)
    (tmp_path / 'run.json').write_text(json.dumps(values))
    assert isinstance(read_results(tmp_path / 'run.json').rows[0].gflops, float)


def test_every_field_is_documented() -> None:
    text = DOCUMENT.read_text(encoding='utf-8')
    missing = [
        f'{kind.__name__}.{entry.name}'
        for kind in (Results, Row, Timing, Ratio)
        for entry in fields(kind)
        if f'`{entry.name}`' not in text
    ]
    assert missing == []
    assert f'schema version {SCHEMA_VERSION}' in text
