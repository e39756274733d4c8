"""The tables of the README and of benchmarks/ say what the kept results say."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from mmtrtvit.benchmark.published import load_published
from mmtrtvit.benchmark.results import Ratio, Timing, read_results
from mmtrtvit.errors import UserError
from tests.test_benchmark.test_results import results, row

ROOT = Path(__file__).parents[2]
MARKS = ('speed', 'results')
FILES = sorted((ROOT / 'benchmarks' / 'results').glob('*.json'))


@pytest.fixture(scope='module')
def update() -> ModuleType:
    spec = importlib.util.spec_from_file_location('update', ROOT / 'benchmarks' / 'update.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_has_drifted(update: ModuleType) -> None:
    assert update.drifted() == []


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_kept_results_carry_their_conditions(path: Path) -> None:
    run = read_results(path)
    assert run.command.startswith('python tools/')
    assert run.conditions['hardware']['cpu']
    assert run.conditions['versions']['mmtrtvit']
    assert run.rows
    assert not run.interrupted
    assert '/' not in run.command.replace('tools/', '').replace('benchmarks/', '')
    for entry in run.rows:
        assert entry.inside
        assert entry.error or entry.wall
        assert not Path(entry.config).is_absolute()


def test_another_result_is_noticed(update: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('README.md', 'benchmarks/README.md'):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        marks = ''.join(
            f'{update.BEGIN.format(mark)}\nold\n{update.END.format(mark)}\n' for mark in ('speed', 'results')
        )
        target.write_text(f'before\n{marks}after\n')
    folder = tmp_path / 'benchmarks' / 'results'
    folder.mkdir()
    (tmp_path / 'mmtrtvit' / 'benchmark').mkdir(parents=True)
    (tmp_path / 'mmtrtvit' / 'benchmark' / 'published.json').write_text('{}')
    for constant, path in (('ROOT', tmp_path), ('RESULTS', folder), ('REPORT', tmp_path / 'benchmarks' / 'report')):
        monkeypatch.setattr(update, constant, path)
    facts = dict(part='backbone', task='instance-segmentation')
    first = row('m', wall=Timing.of([30.0]), rounds_ms=[30.0], params=66_000_000, **facts)
    slower = row('m_svt', backbone='twins-svt-s', wall=Timing.of([60.0]), rounds_ms=[60.0], **facts)
    slower.ratio = Ratio.of('m', [30.0], [60.0])
    run = results(first, slower)
    run.conditions['hardware'] = {'cpu': 'A CPU', 'cores': 2}
    run.conditions['versions'] = {'mmtrtvit': '0', 'torch': '2'}
    (folder / '2026-01-01.json').write_text(json.dumps(run.to_dict()))
    assert update.drifted() == ['README.md', 'benchmarks/README.md', 'benchmarks/report']
    update.write()
    assert update.drifted() == []
    text = (tmp_path / 'README.md').read_text()
    assert '| TRT-ViT-C | 66.0 | 0.0 | 30 | 1 |' in text
    assert '| Twins-SVT-S | 0.0 | 0.0 | 60 | 2.00 (2.00..2.00) |' in text
    assert text.startswith('before\n')
    assert text.endswith('after\n')
    assert 'old' in text  # between the other document's marks, which are none of its business
    assert 'A CPU, 2 cores' in (tmp_path / 'benchmarks' / 'README.md').read_text()
    (folder / '2026-01-01.json').write_text(json.dumps(replace(run, rows=run.rows[:1]).to_dict()))
    assert update.drifted() == ['README.md', 'benchmarks/README.md', 'benchmarks/report']


def test_marks_that_are_gone_are_named(update: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'README\.md: has no marks'):
        update.replaced('text', 'speed', 'x', tmp_path / 'README.md')


def test_published_figures_of_the_table_are_published(update: ModuleType) -> None:
    assert set(update.THEIRS) <= set(load_published().metrics)
