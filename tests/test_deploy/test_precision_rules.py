"""Graphs written by hand, one thing each."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip('onnxruntime')

from mmtrtvit.deploy.precision import PrecisionError, PrecisionReport, emulate_fp16, to_fp16, to_int8
from mmtrtvit.deploy.precision.ranges import _Histograms, collect
from tests.test_deploy.text_graphs import Feed, f32, run, write


def check(path: Path, out: Path, feed: Feed, rtol: float = 2e-3, **options: object) -> PrecisionReport:
    """Cast and compare."""
    report = to_fp16(path, out, **options)  # type: ignore[arg-type]
    exact, found = run(path, feed), run(out, feed)
    for name, value in exact.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=rtol)
    return report


def test_an_island_reads_its_constants_unrounded(tmp_path: Path) -> None:
    path = write(
        tmp_path / 'a.onnx',
        'g (float[2] x) => (float[2] y, float[2] z) { a = Mul(x, c) y = Mul(x, c) z = Relu(a) }',
        {'y': 'island.inner'},
        c=f32(0.1),
    )
    x = f32(1.0009765, 3.0)  # 1.0009765 is no fp16 number
    report = check(path, tmp_path / 'b.onnx', {'x': x})
    found = run(report.path, {'x': x})
    assert (found['y'] == x * np.float32(0.1)).all()
    assert (found['z'] != x * np.float32(0.1)).all()
    assert report.kept == {'scope': ('Mul_1',)} or report.kept_counts == {'scope': 1}


def test_outputs_of_islands_pass_through_nothing(tmp_path: Path) -> None:
    """An output that is read again, an output twice, an input handed through."""
    path = write(
        tmp_path / 'a.onnx',
        'g (float[2] x) => (float[2] y, float[2] z, float[2] w, float[2] v) '
        '{ y = Mul(x, x) z = Add(y, x) w = Identity(y) v = Identity(x) }',
        dict.fromkeys('yzwv', 'island'),
    )
    report = check(path, tmp_path / 'b.onnx', {'x': f32(1.0001, 70000.0)}, rtol=0)
    assert report.casts == 0
    path = write(tmp_path / 'c.onnx', 'g (float[2] x) => (float[2] y, float[2] v) { y = Mul(x, x) v = Identity(x) }')
    check(path, tmp_path / 'd.onnx', {'x': f32(1.5, 7.0)})


def test_constants_that_fp16_does_not_have_keep_their_readers(tmp_path: Path) -> None:
    path = write(
        tmp_path / 'a.onnx',
        'g (float[2] x) => (float[2] y, float[2] z, float[2] m) '
        '{ s = Mul(x, large) y = Div(s, large) d = Sub(x, x) e = Add(d, eps) z = Div(e, eps) '
        'm = Where(no, minus_infinity, x) }',
        large=f32(1e6),
        eps=f32(1e-12),
        minus_infinity=f32(-np.inf),
        no=np.array([True, False]),
    )
    report = check(path, tmp_path / 'b.onnx', {'x': f32(1.0, 2.0)})
    assert report.kept_counts == {'range': 4}
    assert run(report.path, {'x': f32(1.0, 2.0)})['m'].tolist() == [-np.inf, 2.0]


def test_activations_out_of_range_are_found_by_measuring(tmp_path: Path) -> None:
    path = write(
        tmp_path / 'a.onnx',
        'g (float[2] x) => (float[2] y) { a = Mul(x, c) b = Mul(a, a) d = Div(b, a) y = Relu(d) }',
        c=f32(300.0),
    )
    feed = {'x': f32(1.0, 2.0)}
    to_fp16(path, tmp_path / 'b.onnx')
    emulate_fp16(tmp_path / 'b.onnx', tmp_path / 'e.onnx')
    assert np.isinf(run(tmp_path / 'e.onnx', feed)['y']).all()  # 300 * 300 is more than 65504
    report = check(path, tmp_path / 'c.onnx', feed, batches=[feed])
    emulate_fp16(report.path, tmp_path / 'e.onnx')
    np.testing.assert_allclose(run(tmp_path / 'e.onnx', feed)['y'], [300, 600])
    assert report.kept_counts == {'range': 2}
    assert {node.split('_')[0] for node in report.kept['range']} == {'Mul', 'Div'}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=2, max_size=6))
def test_weights_are_rounded_to_nearest(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    folder, weight = tmp_path_factory.mktemp('w'), f32(*values)
    path = write(
        folder / 'a.onnx', f'g (float[{len(values)}] x) => (float[{len(values)}] y) {{ y = Add(x, w) }}', w=weight
    )
    report = to_fp16(path, folder / 'b.onnx')
    found = next(t for t in onnx.load(str(report.path)).graph.initializer if t.name == 'w')
    assert (numpy_helper.to_array(found) == weight.astype(np.float16)).all()
    assert report.flushed == ((weight != 0) & (weight.astype(np.float16) == 0)).sum()


def test_sampling_points_are_followed_to_the_network(tmp_path: Path) -> None:
    path = write(
        tmp_path / 'a.onnx',
        'g (float[1,2,8,8] x, float[1,4,4,2] p) => (float[1,2,4,4] y) { '
        'a = Relu(x) w = Conv <kernel_shape = [1, 1]> (a, k) q = Mul(p, c) r = Sub(q, c) '
        's = GridSample <mode = "linear", padding_mode = "zeros", align_corners = 1> (w, r) y = Relu(s) }',
        k=np.ones((2, 2, 1, 1), dtype=np.float32),
        c=f32(0.999),
    )
    rng = np.random.default_rng(0)
    feed = {'x': rng.standard_normal((1, 2, 8, 8), 'f'), 'p': rng.random((1, 4, 4, 2), 'f')}
    report = to_fp16(path, tmp_path / 'b.onnx')
    assert report.kept_counts == {'coordinates': 3}
    assert report.products == {'fp16': 1}
    np.testing.assert_allclose(run(report.path, feed)['y'], run(path, feed)['y'], atol=5e-3)


@pytest.mark.parametrize(('kernel', 'kept'), [(1, {'scope': 2, 'scores': 2}), (3, {'scope': 2, 'scores': 1})])
def test_what_is_sorted_is_not_rounded_where_that_is_cheap(tmp_path: Path, kernel: int, kept: dict[str, int]) -> None:
    path = write(
        tmp_path / 'a.onnx',
        'g (float[1,1,1,64] x) => (float[64] v, int64[64] i) { a = Relu(x) '
        f'b = Conv <auto_pad = "SAME_UPPER", kernel_shape = [{kernel}, {kernel}]> (a, w) f = Reshape(b, flat) '
        's = Sigmoid(f) v, i = TopK(s, k) }',
        {'s': 'island', 'v': 'island'},
        w=np.full((1, 1, kernel, kernel), 0.999, dtype=np.float32),
        flat=np.array([64]),
        k=np.array([64]),
    )
    report = to_fp16(path, tmp_path / 'b.onnx')
    assert report.kept_counts == kept
    emulate_fp16(report.path, tmp_path / 'c.onnx')
    x = 8 + np.arange(64, dtype=np.float32).reshape(1, 1, 1, 64) / 128  # fp16 numbers
    found = run(tmp_path / 'c.onnx', {'x': x})
    assert (len(set(found['v'].tolist())) == 64) == (kernel == 1)


def test_a_loop_reads_float32_from_outside(tmp_path: Path) -> None:
    path = write(
        tmp_path / 'a.onnx',
        """g (float[2] x) => (float[2] y) {
            a = Relu(x)
            b = Mul(x, c)
            y = Loop <body = body (int64 i, bool go, float[2] v) => (bool again, float[2] u) {
                again = Identity(go) t = Add(v, a) s = Mul(t, c) u = Sub(s, b)
            }> (three, yes, x)
        }""",
        {'y': 'island', 'b': 'island'},
        c=f32(0.3),
        three=np.array(3),
        yes=np.array(True),
    )
    check(path, tmp_path / 'b.onnx', {'x': f32(1.0001, 2.5)})


def test_keep_names_nodes(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.onnx', 'g (float[2] x) => (float[2] y) { a = Relu(x) y = Mul(a, a) }')
    name = 'Relu_0'
    assert to_fp16(path, tmp_path / 'b.onnx', keep=[name]).kept == {'asked': (name,)}
    with pytest.raises(PrecisionError, match=r"a\.onnx: keep='Relu_7' is the name of no node"):
        to_fp16(path, tmp_path / 'b.onnx', keep=['Relu_7'])


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.onnx', 'g (float[2] x) => (float[2] y) { y = Relu(x) }')
    with pytest.raises(PrecisionError, match='no such file'):
        to_fp16(tmp_path / 'none.onnx', tmp_path / 'b.onnx')
    whole = path.read_bytes()
    for content in (b'', b'text', whole[: len(whole) // 2]):
        (tmp_path / 'broken.onnx').write_bytes(content)
        with pytest.raises(PrecisionError, match=r'broken\.onnx: .*export the model again|broken\.onnx: its metadata'):
            to_fp16(tmp_path / 'broken.onnx', tmp_path / 'b.onnx')
    model = onnx.load(str(path))
    for value, message in (('{', 'is no JSON'), ('{}', 'is no list of texts')):
        model.metadata_props[0].value = value
        onnx.save(model, str(path))
        with pytest.raises(PrecisionError, match=message):
            to_fp16(path, tmp_path / 'b.onnx')
    del model.metadata_props[:]
    onnx.save(model, str(path))
    for attempt in (lambda: to_fp16(path, tmp_path / 'b.onnx'), lambda: to_int8(path, tmp_path / 'b.onnx', [])):
        with pytest.raises(PrecisionError, match=r'a\.onnx: its metadata has no mmtrtvit\.float32_scopes.*must stay'):
            attempt()
    assert not (tmp_path / 'b.onnx').exists()


def test_a_pass_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / 'a.onnx', 'g (float[2] x) => (float[2] y) { y = Relu(x) }')
    (tmp_path / 'b.onnx').write_bytes(b'old')

    def refuse(model: object, **options: object) -> None:
        if options.get('full_check'):
            raise onnx.checker.ValidationError('refused')

    monkeypatch.setattr(onnx.checker, 'check_model', refuse)
    with pytest.raises(PrecisionError, match=r'b\.onnx: the graph that was made is not valid: refused'):
        to_fp16(path, tmp_path / 'b.onnx')
    assert (tmp_path / 'b.onnx').read_bytes() == b'old'
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['a.onnx', 'b.onnx']


RESIDUAL = (
    'g (float[1,2,6,6] x) => (float[1,2,6,6] y) { first = Conv <pads = [1, 1, 1, 1]> (x, a) r = Relu(first) '
    'm = Conv <pads = [1, 1, 1, 1]> (r, b) n = Add(m, r) t = LAST(n) o = Sigmoid(r) p = Mul(t, o) '
    'q = Conv <pads = [1, 1, 1, 1]> (p, c) y = Relu(q) }'
)


@pytest.fixture
def residual(tmp_path: Path) -> tuple[Path, list[Feed]]:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((2, 2, 3, 3), 'f') for name in 'abc'}
    feeds = [{'x': rng.standard_normal((1, 2, 6, 6), 'f')} for _ in range(3)]
    write(tmp_path / 'stream.onnx', RESIDUAL.replace('LAST', 'Tanh'), **weights)
    return write(tmp_path / 'a.onnx', RESIDUAL.replace('LAST', 'Relu'), **weights), feeds


def inputs_of(path: Path) -> dict[str, list[str]]:
    return {node.output[0]: list(node.input) for node in onnx.load(str(path)).graph.node}


def test_which_products_are_quantized(residual: tuple[Path, list[Feed]], tmp_path: Path) -> None:
    path, feeds = residual
    report = to_int8(path, tmp_path / 'b.onnx', feeds)
    assert report.products == {'int8': 1, 'fp32': 2}
    assert {key: len(value) for key, value in report.kept.items()} == {'input': 1, 'output': 1}
    inputs = inputs_of(report.path)
    assert inputs['m'][0] in inputs['n']  # the shortcut takes the int8 values
    assert inputs['o'] == ['r']  # no other reader does
    report = to_int8(tmp_path / 'stream.onnx', tmp_path / 'c.onnx', feeds)
    assert inputs_of(report.path)['n'] == ['m', 'r']  # no Relu follows
    report = to_int8(path, tmp_path / 'c.onnx', feeds, residual=False, skip_input=False, skip_output=False)
    assert report.products == {'int8': 3}
    assert inputs_of(report.path)['n'] == ['m', 'r']
    exact, found = run(path, feeds[0])['y'], run(report.path, feeds[0])['y']
    assert 0 < np.abs(exact - found).max() < 0.05 * np.abs(exact).max()


def test_scales_are_those_of_the_images(residual: tuple[Path, list[Feed]], tmp_path: Path) -> None:
    path, feeds = residual
    model = onnx.load(str(path))
    model.graph.output.append(helper.make_tensor_value_info('r', TensorProto.FLOAT, [1, 2, 6, 6]))
    onnx.save(model, str(tmp_path / 'r.onnx'))
    largest = max(run(tmp_path / 'r.onnx', feed)['r'].max() for feed in feeds)
    report = to_int8(path, tmp_path / 'b.onnx', feeds, 'minmax')
    scales = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(report.path)).graph.initializer}
    assert scales['r_scale'] == pytest.approx(largest / 127.5, rel=0.01)
    found = collect(path, feeds, ['r'])
    assert list(found.keys()) == ['r']
    assert found['r'].range_value[1] == pytest.approx(largest)


@pytest.mark.parametrize('method', ['minmax', 'entropy', 'percentile'])
def test_batches_are_looked_at_one_by_one(residual: tuple[Path, list[Feed]], tmp_path: Path, method: str) -> None:
    path, feeds = residual
    read, seen = [], []

    def batches() -> Iterator[Feed]:
        for number, feed in enumerate(feeds):
            read.append(number)
            yield feed

    report = to_int8(
        path, tmp_path / 'b.onnx', batches(), method, progress=lambda *step: seen.append((*step, len(read)))
    )
    assert report.products['int8'] == 1
    assert [step for step in seen if step[0] == 'Calibrating'] == [('Calibrating', n, 0, n) for n in range(4)]
    to_int8(path, tmp_path / 'c.onnx', feeds, method, progress=lambda *step: seen.append(step))
    assert ('Calibrating', 3, 3) in seen
    assert seen[-1] == ('Quantising', 1, 1)


def test_entropy_after_an_image_of_next_to_nothing(residual: tuple[Path, list[Feed]]) -> None:
    """The first image decides how wide a bin is: bins must not become millions."""
    path, feeds = residual
    largest = collect(path, feeds, ['x'])['x'].range_value
    for factor in (0, 1e-9, 1e-3, 1):
        dark = {'x': feeds[0]['x'] * np.float32(factor)}
        for order in ([dark, *feeds], [*feeds, dark], [dark, dark]):
            low, high = collect(path, order, ['x'], 'entropy')['x'].range_value
            if order[-1] is order[0]:
                assert factor * largest[0] <= low <= high <= factor * largest[1]
            else:
                assert 0.4 * largest[1] < high <= largest[1]
                assert 0.4 * largest[0] > low >= largest[0]


@given(st.lists(st.sampled_from([0, 1e-41, 1e-9, 1e-4, 0.3, 1, 2, 70, 1e6]), min_size=1, max_size=6))
def test_histograms_lose_no_value(scales: list[float]) -> None:
    histograms = _Histograms('entropy', True, 128, 128, None, None)
    generator = np.random.default_rng(len(scales))
    batches = [(generator.standard_normal(200) * scale).astype(np.float32) for scale in scales]
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in batches:
            histograms.collect({'x': batch})
    counts, edges, low, high, limit = histograms.histogram_dict['x']
    values = np.concatenate(batches)
    assert counts.sum() == values.size
    assert len(edges) == len(counts) + 1 <= _Histograms.bins + 3
    assert (low, high) == (values.min(), values.max())
    assert edges[-1] == pytest.approx(limit or 0.5)  # numpy takes 0.5 where all values are 0
    for number in (len(counts) // 4, len(counts) * 3 // 8, len(counts) * 5 // 8, len(counts) * 3 // 4):
        below = np.count_nonzero(values < edges[number])
        assert abs(counts[:number].sum() - below) <= 4  # edges are rounded


def test_what_int8_refuses(residual: tuple[Path, list[Feed]], tmp_path: Path) -> None:
    path, feeds = residual
    out = tmp_path / 'b.onnx'
    for options, message in (
        (dict(batches=[]), 'there are no calibration images'),
        (dict(batches=[{'x': feeds[0]['x'][:, :1]}]), 'cannot be run on calibration batch 1: .*'),
        (dict(batches=feeds, method='magic'), "method='magic' is not one of entropy, percentile, minmax"),
        (dict(batches=feeds, rest='fp8'), "rest='fp8' is not 'fp32' or 'fp16'"),
    ):
        with pytest.raises(PrecisionError, match=message):
            to_int8(path, out, **options)  # type: ignore[arg-type]
    done = to_int8(path, tmp_path / 'done.onnx', feeds).path
    with pytest.raises(PrecisionError, match=r'done\.onnx: has Q/DQ nodes already'):
        to_int8(done, out, feeds)
    plain = write(tmp_path / 'plain.onnx', 'g (float[2] x) => (float[2] y) { y = Relu(x) }')
    with pytest.raises(PrecisionError, match='nothing to quantise'):
        to_int8(plain, out, [{'x': f32(1, 2)}])
    assert not out.exists()
    assert to_fp16(done, out).products == {'int8': 1, 'fp16': 2}


def test_scales_that_fp16_does_not_have_are_raised(tmp_path: Path) -> None:
    """A dead channel's scale must not become 0, and one with small weights must stay what it is."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 8), 'f')
    weight[:, 1] *= 1e-9
    weight[:, 2] *= 1e-5
    weight[:, 3] = 0
    text = 'g (float[2,4] x) => (float[2,8] y) { a = Relu(x) m = MatMul(a, w) y = Relu(m) }'
    path = write(tmp_path / 'a.onnx', text, w=weight)
    feeds = [{'x': rng.standard_normal((2, 4), 'f')} for _ in range(3)]
    report = to_int8(path, tmp_path / 'b.onnx', feeds, rest='fp16', skip_input=False, skip_output=False)
    model = onnx.load(str(report.path))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (pair,) = [n for n in model.graph.node if n.op_type == 'DequantizeLinear' and n.input[0] in constants]
    integers, scale = constants[pair.input[0]].astype(np.float32), constants[pair.input[1]]
    assert scale.dtype == np.float16
    assert (scale > 0).all()
    error = np.abs(integers * scale.astype(np.float32) - weight).max(axis=0)
    assert (error <= np.maximum(np.abs(weight).max(axis=0) / 127, 1e-6)).all()
