"""Reports: what is compared, what Markdown says, the tool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrtvit.benchmark.published import PublishedFigures
from mmtrtvit.benchmark.report import rebase, render, select
from mmtrtvit.benchmark.report.accuracies import quoted, rank
from mmtrtvit.benchmark.report.charts import heats, scatters
from mmtrtvit.benchmark.report.columns import columns_of, notes_of
from mmtrtvit.benchmark.report.content import Group, groups_of, runs_of
from mmtrtvit.benchmark.report.markdown import code, escape, group_table
from mmtrtvit.benchmark.report.numbers import clean, shorten, significant, slug
from mmtrtvit.benchmark.results import Ratio, Results, Timing, read_results, write_results
from mmtrtvit.benchmark.tools.report import run as report
from mmtrtvit.errors import UserError
from tests.test_benchmark.reports import block_run, cpu_run, gpu_run, make_results, make_row, published

NOTHING = PublishedFigures({}, {}, {}, (), ())


def groups_in(*results: Results) -> list[Group]:
    return [group for run in runs_of(results) for group in groups_of(run)]


@pytest.mark.parametrize(
    ('value', 'text'),
    [(1234.5, '1234'), (999.6, '1000'), (99.96, '100'), (12.345, '12.3'), (1.0, '1.00'), (0.012345, '0.0123'),
     (0.0, '0'), (-2.5, '-2.50'), (None, '-'), (float('nan'), '-'), (float('inf'), '-')],
)  # fmt: skip
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-6, 1e9))
def test_a_written_number_is_within_half_a_per_cent(value: float) -> None:
    text = significant(value)
    assert 'e' not in text
    assert float(text) == pytest.approx(value, rel=0.005001)


def test_foreign_text_is_one_line_without_control_characters() -> None:
    assert clean('a\n b\x1b[31m\u202ec\t\x00d') == 'a b [31m c d'
    assert shorten('abcdef', 4) == 'abc…'
    assert slug('../../etc/Pass wd') == '....-etc-pass-wd'.lstrip('.-')
    assert slug('***') == 'unnamed'


@given(st.text(max_size=60))
def test_escaped_text_holds_no_markup(text: str) -> None:
    """Every character that Markdown or HTML knows has a backslash before it, and taking those away gives the text."""
    written = escape(text)
    assert re.sub(r'\\([\\`*_{}\[\]<>#|~!&$])', r'\1', written) == clean(text)
    assert not re.search(r'(?<!\\)(?:\\\\)*[`*_{}\[\]<>#|~!&$]', written)


@given(st.text(alphabet='`|a \n', max_size=30))
def test_code_cannot_be_left(text: str) -> None:
    written = code(text)
    if not clean(text):
        assert written == ''
        return
    fence = re.match('`+', written)
    assert fence is not None
    inner = written[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall('`+', inner)
    assert re.search(r'(?<!\\)\|', inner) is None
    assert inner.replace('\\|', '|').strip() == clean(text)


def test_rows_are_compared_within_task_and_setting_only() -> None:
    others: dict[str, dict[str, Any]] = {
        'a': {},
        'b': dict(ms=50.0),
        'c': dict(precision='fp16'),
        'd': dict(part='end2end'),
        'e': dict(input_shape=[8, 3, 512, 512]),
        'f': dict(threads=1),
        'g': dict(task='detection'),
    }
    rows = [make_row(name, **changes) for name, changes in others.items()]
    found = groups_in(make_results(rows), make_results([make_row('h')]))
    assert [[row.backbone for row in group.measured] for group in found] == [
        ['b', 'a'], ['c'], ['d'], ['e'], ['f'], ['g'], ['h'],
    ]  # fmt: skip
    assert len({group.name for group in found}) == 7


def test_blocks_of_all_stages_are_one_group() -> None:
    (group,) = groups_in(block_run())
    assert len(group.measured) == 19
    assert [column.head for column in columns_of(group)] == [
        'Kind', 'Stage', 'C', 'HxW', 'Blocks', 'ms per block', 'p10..p90, ms', 'Params, M', 'GFLOPs', 'TeraFLOPS',
        'TeraParams',
    ]  # fmt: skip
    cells = [column.text(group.measured[0]) for column in columns_of(group)]
    assert cells == [
        'BottleNeck',
        '1',
        '256',
        '56x56',
        '8',
        '1.05',
        '1.00..1.10',
        '0.0700',
        '0.218',
        '0.900',
        '0.000270',
    ]
    bare = make_row(model='LSA', task='block', part='block', ms=8.0, extra={'blocks': 4, 'stage': 2})
    texts = {column.head: column.text(bare) for column in columns_of(group)}
    assert (texts['ms per block'], texts['p10..p90, ms']) == ('2.00', '1.98..2.02')  # an equal part of the stack
    flops, params = heats([group])
    assert flops.kinds == ['BottleNeck', 'Transformer', 'MixBlockA', 'MixBlockC', 'LSA']
    assert flops.stages == ['stage 1, 56x56', 'stage 2, 28x28', 'stage 3, 14x14', 'stage 4, 7x7']
    assert ('Transformer', 'stage 1, 56x56') not in flops.values
    assert (flops.title, params.title) == ('TeraFLOPS', 'TeraParams in thousandths')
    assert params.text(params.values['BottleNeck', 'stage 4, 7x7']) == '7.29'


def test_ratios_against_another_baseline_are_pairs_of_one_round() -> None:
    base = make_row('base', rounds_ms=[10.0, 40.0, 20.0], wall=Timing.of([10.0, 40.0, 20.0]))
    own = make_row('own', rounds_ms=[5.0, 10.0, 20.0], wall=Timing.of([5.0, 10.0, 20.0]))
    other = make_row('other', precision='fp16', ratio=Ratio('own', 3.0, 3.0, 3.0, 3))
    run = make_results([own, base, other])
    again = rebase(run, 'base')
    assert again.rows[0].ratio == Ratio('mask_rcnn_base', 2.0, pytest.approx(1.2), pytest.approx(3.6), 3)  # type: ignore[arg-type]
    assert again.rows[1].ratio is None
    assert again.rows[2].ratio is None  # no baseline in its setting: none rather than a wrong one
    assert run.rows[0].ratio is None  # left as it was
    assert run.rows[2].ratio is not None
    assert rebase(run, 'mask_rcnn_base').rows[0].ratio == again.rows[0].ratio
    with pytest.raises(UserError, match=r"'swin' is not among what was measured: base, .*mask_rcnn_own"):
        rebase(run, 'swin')


def test_a_backbone_as_baseline_stands_for_the_row_of_the_same_task() -> None:
    rows = [make_row('base', ms=100.0), make_row('base', ms=60.0, task='detection', model='retinanet_base')]
    rows += [make_row('own', ms=50.0), make_row('own', ms=20.0, task='detection', model='retinanet_own')]
    ratios = [row.ratio for row in rebase(make_results(rows), 'base').rows]
    assert [ratio and (ratio.baseline, round(ratio.median, 3)) for ratio in ratios] == [
        None, None, ('mask_rcnn_base', 2.0), ('retinanet_base', 3.0),
    ]  # fmt: skip


def test_select() -> None:
    run = cpu_run()
    assert {row.task for row in select(run, ['classification']).rows} == {'classification'}
    assert {row.part for row in select(run, parts=['backbone']).rows} == {'backbone'}
    assert len(select(run).rows) == len(run.rows)


def test_notes_say_noise_and_another_precision_than_asked_for() -> None:
    row = make_row(precision='fp16', precision_obtained='fp32', precision_share=0.12, noise='spread of 31%')
    assert notes_of(row) == ['noisy: spread of 31%', 'fp16 was asked for, fp32 obtained (12 % in fp16)']
    assert notes_of(make_row()) == []
    (group,) = groups_in(make_results([row, make_row('b', precision='fp16', precision_obtained='fp16')]))
    assert dict(group.conditions())['Precision'] == (
        'fp16 asked for; obtained: fp32 (12 % of convolutions and matrix products in fp16) for 1 of 2; '
        'fp16 (100 % of convolutions and matrix products in fp16) for 1 of 2'
    )


def test_conditions_of_a_gpu_run() -> None:
    (group,) = groups_in(gpu_run())
    facts = dict(group.conditions())
    assert facts['Hardware'] == 'Example GPU 9000, 139.8 GiB; Example CPU @ 2.0 GHz, 2 cores, 7.8 GiB'
    assert facts['Driver'] == '600.12.34'
    assert facts['Load'].startswith('before: load average 0.2, gpu clocks.sm 1980, gpu temperature.gpu 41')
    assert facts['Latency'].startswith('time on the GPU between two CUDA events')
    assert group.title == 'Instance segmentation, backbone alone: TensorRT, cuda:0, fp16, 800x1344, batch 8'
    assert 'Wall, ms' in [column.head for column in columns_of(group)]


def test_fewer_rounds_than_asked_for_are_said() -> None:
    (run,) = runs_of([make_results([make_row()], rounds=20)])
    assert run.rounds == '20 asked for, 5 done; interleaved, 1 call each, after 2 of warm-up'


def test_the_fitting_accuracy_comes_first() -> None:
    rows = [make_row('trtvit-c'), make_row('swin-t', ms=181.0)]
    group = groups_in(make_results(rows))[0]
    used = quoted(published(), rows)
    small = [make_row('trtvit-c', task='classification')]
    assert [entry.metric for entry in quoted(published(), small)] == ['ImageNet-1k top-1']
    assert quoted(published(), [make_row('unknown')]) == []
    assert {entry.unit for entry in used} == {'%', 'ms'}  # parameters are no accuracy
    assert [rank(entry, group) for entry in used] == [2, 2, 0, 0, 1]
    plots = scatters([group], used)
    assert [plot.metric for plot in plots] == ['COCO box AP (Mask R-CNN 1x)', 'ImageNet-1k top-1']
    assert plots[0].note == 'accuracy: published by others, see sources; latency: measured here with random weights'
    assert [point.name for point in plots[0].front] == ['TRTVIT-C']
    alone = groups_in(make_results([make_row('trtvit-c'), make_row('unknown')]))[0]
    assert scatters([alone], used) == []


def test_the_front_holds_what_no_other_beats() -> None:
    group = next(group for group in groups_in(cpu_run()) if group.row.part == 'backbone')
    plot = scatters([group], quoted(published(), group.measured))[1]
    front = plot.front
    beaten = [
        point
        for point in plot.points
        if any(
            other.timing.median_ms <= point.timing.median_ms
            and other.accuracy.value >= point.accuracy.value
            and other is not point
            for other in plot.points
        )
    ]
    assert {id(point) for point in front} == {id(point) for point in plot.points} - {id(point) for point in beaten}


def test_small_report_word_by_word(tmp_path: Path) -> None:
    rows = [make_row('twins', ms=200.0), make_row('trtvit-c', noise='it jumps')]
    rows.append(make_row('swin-t', wall=None, rounds_ms=[], error='ValueError: a|b'))
    files = render([rebase(make_results(rows), 'twins')], tmp_path, NOTHING)
    assert [file.name for file in files] == ['report.md', 'report.html']
    assert files[0].read_text(encoding='utf-8') == Path(__file__).with_name('small_report.md').read_text(
        encoding='utf-8'
    )


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    text = render([make_results([])], tmp_path, NOTHING)[0].read_text(encoding='utf-8')
    assert '**This run has no rows.**' in text
    failed = make_row(wall=None, rounds_ms=[], error='out of memory')
    text = render([make_results([failed])], tmp_path, published())[0].read_text(encoding='utf-8')
    assert '**No row of this run has a measurement.**' in text
    assert '`out of memory`' in text


def test_conditions_of_any_shape_do_not_break_a_report(tmp_path: Path) -> None:
    odd = {
        'hardware': 'a string',
        'versions': None,
        'before': [1, 2],
        'others_busy_cores': 'many',
        'more': {'a': {'b': 1}},
    }
    files = render([make_results([make_row()], conditions=odd, command='', date='')], tmp_path, NOTHING)
    text = files[0].read_text(encoding='utf-8')
    assert 'unknown hardware' in text
    assert '- Load: before: 1, 2\n' in text
    assert '- more: a b 1\n' in text


def test_the_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_results(cpu_run(), tmp_path / 'first.json')
    second = write_results(gpu_run(), tmp_path / 'second.json')
    out = tmp_path / 'a folder'
    files = report([str(first), str(second), '--out', str(out), '--baseline', 'trtvit-c', '--part', 'backbone'])
    assert all(file.is_file() for file in files)
    printed = capsys.readouterr().out
    assert f'warning: {second}: was interrupted' in printed
    assert f'warning: {first}: noisy: other processes kept 0.4 of 2 cores busy during the rounds' in printed
    assert str(out / 'report.html') in printed
    text = (out / 'report.md').read_text(encoding='utf-8')
    assert 'as `mask_rcnn_trtvit-c`' in text
    assert 'end to end' not in text
    assert read_results(first).rows[0].ratio == cpu_run().rows[0].ratio  # the files are left as they were


def test_the_tool_names_what_there_is(tmp_path: Path) -> None:
    file = str(write_results(make_results([make_row()]), tmp_path / 'run.json'))
    with pytest.raises(
        UserError, match=r'--task depth: no such rows; the files have the tasks instance-segmentation and'
    ):
        report([file, '--task', 'depth', '--out', str(tmp_path)])
    with pytest.raises(UserError, match=r"run\.json: baseline 'swin-t' is not among"):
        report([file, '--baseline', 'swin-t', '--out', str(tmp_path)])
    empty = str(write_results(make_results([]), tmp_path / 'empty.json'))
    with pytest.raises(UserError, match=r'empty\.json: no rows'):
        report([empty, '--out', str(tmp_path)])


def test_group_table_alone_for_a_readme() -> None:
    (group,) = groups_in(make_results([make_row(engine_bytes=None, nodes=None, peak_memory_mib=None, gflops=None)]))
    assert group_table(group).splitlines() == [
        '| Model | Backbone | Median, ms | p10..p90, ms | Images/s | Params, M |',
        '| --- | --- | --: | --: | --: | --: |',
        '| **`mask_rcnn_trtvit-c`** | trtvit-c | 100 | 99.2..101 | 10.0 | 66.0 |',
    ]
