"""Pictures of a report: labels that cover nothing, sizes, names that look like formulas."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtrtvit.benchmark.report.accuracies import quoted
from mmtrtvit.benchmark.report.charts import breakdowns, heats, parts_of, scatters
from mmtrtvit.benchmark.report.content import groups_of, runs_of
from mmtrtvit.benchmark.report.figures import draw_breakdown, draw_heats, draw_pareto, text_colour
from mmtrtvit.benchmark.report.labels import Box, along_line, place
from mmtrtvit.benchmark.report.plot import HEIGHT, WIDTH, plot
from mmtrtvit.benchmark.results import Timing
from tests.test_benchmark.reports import HOSTILE, block_run, cpu_run, make_results, make_row, published


def boxes() -> st.SearchStrategy[Box]:
    side = st.floats(0, 100)
    return st.builds(Box, side, side, side, side)


@given(boxes(), boxes())
def test_overlap_is_the_common_area(one: Box, other: Box) -> None:
    assert one.overlap(other) == pytest.approx(other.overlap(one))
    assert 0 <= one.overlap(other) <= min(one.width * one.height, other.width * other.height) + 1e-6
    assert one.overlap(one) == pytest.approx(one.width * one.height)


@given(boxes(), st.floats(-50, 250), st.floats(-50, 250))
def test_the_nearest_point_is_in_the_box(box: Box, x: float, y: float) -> None:
    near_x, near_y = box.nearest(x, y)
    assert box.x <= near_x <= box.x + box.width
    assert box.y <= near_y <= box.y + box.height
    for corner in itertools.product((box.x, box.x + box.width), (box.y, box.y + box.height)):
        assert math.dist((near_x, near_y), (x, y)) <= math.dist(corner, (x, y)) + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_labels_of_a_crowd_do_not_cover_each_other(seed: int) -> None:
    generator = random.Random(seed)
    points = [(generator.uniform(100, 800), generator.uniform(60, 440)) for _ in range(24)]
    sizes = [(generator.uniform(40, 110), 15.0) for _ in points]
    bounds = Box(60, 16, 840, 450)
    marks = [Box(x - 6, y - 6, 12, 12) for x, y in points]
    placed = place(points, sizes, bounds, marks)
    assert placed == place(points, sizes, bounds, marks)
    covered = sum(one.overlap(other) for one, other in itertools.combinations(placed, 2))
    assert covered < 0.02 * sum(box.width * box.height for box in placed)
    assert all(box.overlap(bounds) > 0.99 * box.width * box.height for box in placed)


def test_a_lonely_label_stands_beside_its_point() -> None:
    (box,) = place([(50.0, 50.0)], [(30.0, 10.0)], Box(0, 0, 100, 100), [Box(44, 44, 12, 12)])
    assert box.overlap(Box(44, 44, 12, 12)) == 0
    assert math.dist(box.nearest(50, 50), (50, 50)) < 12
    assert place([], [], Box(0, 0, 1, 1)) == []
    assert along_line([(0.0, 0.0)]) == []
    assert len(along_line([(0.0, 0.0), (120.0, 0.0)])) == 10


@pytest.mark.parametrize(('colour', 'ink'), [('#ffffff', 'black'), ('#000000', 'white'), ('#0072b2', 'white'),
                                             ('#f0e442', 'black'), ('#e69f00', 'black')])  # fmt: skip
def test_text_on_a_colour_can_be_read(colour: str, ink: str) -> None:
    assert text_colour(colour) == ink


def test_pictures_of_hostile_names_have_their_size(tmp_path: Path) -> None:
    rows = [make_row(name, ms=ms, model=HOSTILE) for name, ms in (('trtvit-c', 100.0), ('swin-t', 181.0))]
    for row in rows:
        row.noise, row.breakdown = HOSTILE, {'backbone': 60.0, 'NMS': 3.0, '$\\frac{': 2.0, 'other': 0.0}
    groups = groups_of(runs_of([make_results(rows)])[0])
    (group, shown), *_ = breakdowns(groups)
    assert list(parts_of(shown)) == ['backbone', 'NMS', 'other', '$\\frac{']
    bars = draw_breakdown(group, shown, tmp_path / 'bars.png')
    scatter = scatters(groups, quoted(published(), rows))[0]
    scatter.points[0] = type(scatter.points[0])('$\\frac{', *list(vars(scatter.points[0]).values())[1:])
    pareto = draw_pareto(scatter, tmp_path / 'pareto.png')
    first = pareto.read_bytes()
    assert draw_pareto(scatter, tmp_path / 'pareto.png').read_bytes() == first  # the same picture every time
    with Image.open(pareto) as image:
        assert image.size == (1350, 930)
        assert image.format == 'PNG'
    with Image.open(bars) as image:
        assert image.size == (1500, round(150 * (2.0 + 0.42 * 2)))


def test_heat_maps_side_by_side(tmp_path: Path) -> None:
    maps = heats(groups_of(runs_of([block_run()])[0]))
    with Image.open(draw_heats(maps, tmp_path / 'heat.png')) as image:
        assert image.size == (1770, 645)
    with Image.open(draw_heats(maps[:1], tmp_path / 'one.png')) as image:
        assert image.size == (1005, 645)


def test_the_plot_of_the_page_lies_within_it() -> None:
    groups = groups_of(runs_of([cpu_run()])[0])
    for scatter in scatters(groups, quoted(published(), cpu_run().rows)):
        shown = plot(scatter)
        assert [mark.x for mark in shown.marks] == sorted(mark.x for mark in shown.marks)
        for mark in shown.marks:
            assert 62 <= mark.left <= mark.x <= mark.right <= WIDTH - 18
            assert 16 <= mark.y <= HEIGHT - 52
        best = max(shown.marks, key=lambda mark: mark.point.accuracy.value)
        assert best.y == min(mark.y for mark in shown.marks)
        assert 3 <= len(shown.x_ticks) <= 10
        assert 3 <= len(shown.y_ticks) <= 8


def test_far_apart_latencies_get_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = [make_row('trtvit-c', ms=2.0), make_row('swin-t', ms=20.0), make_row('resnet-101', ms=200.0)]
    (scatter, *_) = scatters(groups_of(runs_of([make_results(rows)])[0]), quoted(published(), rows))
    shown = plot(scatter)
    assert shown.logarithmic
    left, middle, right = (mark.x for mark in shown.marks)
    assert middle - left == pytest.approx(right - middle)
    assert {'2', '5', '10', '20', '50', '100', '200'} <= {text for _, text in shown.x_ticks}
    draw_pareto(scatter, tmp_path / 'log.png')


def test_equal_points_do_not_divide_by_nothing(tmp_path: Path) -> None:
    same = Timing.of([100.0])
    rows = [make_row(name, wall=same, rounds_ms=[100.0]) for name in ('trtvit-c', 'twins-pcpvt-b', 'cswin-t')]
    group = groups_of(runs_of([make_results(rows)])[0])
    (scatter,) = scatters(group, quoted(published(), rows))  # all at 82.7
    assert len({(mark.x, mark.y) for mark in plot(scatter).marks}) == 1
    draw_pareto(scatter, tmp_path / 'one.png')
