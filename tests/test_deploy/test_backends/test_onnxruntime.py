"""ONNX Runtime behind the interface: values against NumPy and PyTorch, and what bad input says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional

from mmtrtvit.deploy.backends import Backend, BackendError, BuildOptions, LoadOptions, Runner, get_backend
from mmtrtvit.deploy.backends.check_graphs import probe_feed
from mmtrtvit.deploy.backends.graph import read_graph
from mmtrtvit.deploy.backends.onnxruntime import _BoundRunner, _int8_is_exact
from tests.test_deploy import text_graphs


@pytest.fixture
def backend() -> Backend:
    return get_backend('onnxruntime')


@pytest.fixture
def runner(graphs: dict[str, Path], backend: Backend) -> Runner:
    return backend.load(graphs['convolution'], require_card=False)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(probe_feed('convolution')['image'])


def by_torch(path: Path, image: torch.Tensor) -> torch.Tensor:
    model = onnx.load_model(str(path))
    weights = [torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer]
    x = functional.relu(functional.conv2d(image, weights[0], padding=1))
    x = functional.relu(functional.conv2d(x, weights[1], stride=2, padding=1))
    return functional.conv2d(x, weights[2])


def test_it_computes_what_torch_computes(runner: Runner, graphs: dict[str, Path], image: torch.Tensor) -> None:
    outputs = runner({'image': image})
    assert [str(spec) for spec in runner.inputs] == ['image float32 (1, 3, 32, 32)']
    assert [str(spec) for spec in runner.outputs] == ['features float32 (1, 16, 16, 16)']
    torch.testing.assert_close(outputs['features'], by_torch(graphs['convolution'], image), rtol=1e-4, atol=1e-5)
    turned = image.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not turned.is_contiguous()
    assert torch.equal(runner({'image': turned})['features'], outputs['features'])


def test_options(graphs: dict[str, Path], backend: Backend, image: torch.Tensor) -> None:
    plain = backend.load(graphs['convolution'], require_card=False)({'image': image})['features']
    options = LoadOptions(threads=1, graph_optimization='none')
    other = backend.load(graphs['convolution'], require_card=False, options=options)({'image': image})['features']
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('product', ['Conv', 'MatMul'])
def test_int8_sums_are_exact(product: str, backend: Backend, tmp_path: Path) -> None:
    """Large int8 values of one sign, whose products pass 16 bits in pairs, against NumPy's whole numbers."""
    generator = np.random.default_rng(0)
    rows, weight = generator.integers(90, 128, (49, 64)), generator.integers(90, 128, (64, 16))
    expected = np.rint(rows @ weight / 8192) * 8192
    if product == 'Conv':  # the same sums, as a 1x1 convolution of 7x7 pixels
        rows, weight = rows.T.reshape(1, 64, 7, 7), weight.T.reshape(16, 64, 1, 1)
        expected = expected.T.reshape(1, 16, 7, 7)
    path = text_graphs.write(
        tmp_path / 'int8.onnx',
        f"""graph (float{list(rows.shape)} image) => (float{list(expected.shape)} features)
        <float one = {{1}}, float step = {{8192}}, int8 zero = {{0}}> {{
            image_int8 = QuantizeLinear(image, one, zero)
            values = DequantizeLinear(image_int8, one, zero)
            weights = DequantizeLinear<axis = {'0' if product == 'Conv' else '1'}>(stored, scales, zeros)
            sums = {product}(values, weights)
            sums_int8 = QuantizeLinear(sums, step, zero)
            features = DequantizeLinear(sums_int8, step, zero)
        }}""",
        stored=weight.astype(np.int8),
        scales=np.ones(16, np.float32),
        zeros=np.zeros(16, np.int8),
    )
    runner = backend.load(path, require_card=False)
    found = runner({'image': torch.from_numpy(rows.astype(np.float32))})['features']
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_the_report(precision: str, graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    source = graphs['convolution' if precision == 'fp32' else f'convolution {precision}']
    seen: list[tuple[str, int, int]] = []
    engine = tmp_path / 'model.onnx'
    report = backend.build(source, engine, BuildOptions(precision=precision), progress=lambda *step: seen.append(step))
    assert engine.read_bytes() == source.read_bytes()
    assert (report.precision_asked, report.precision_obtained, report.precision_share) == (precision, precision, 1.0)
    assert (report.precision_source, report.opset, report.backend) == ('graph', 20, 'onnxruntime')
    assert report.onnx_nodes == len(onnx.load_model(str(source)).graph.node)
    warned = {'fp32': False, 'fp16': True, 'int8': not _int8_is_exact()}[precision]
    assert [warning.partition(' on ')[0] for warning in report.warnings] == [precision] * warned
    assert seen == [('Checking the graph', 0, 1), ('Checking the graph', 1, 1)]
    assert isinstance(report.to_dict()['inputs'][0]['shape'], list)


def test_fp16_not_got_is_an_error(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r'fp16 was asked of onnxruntime, but the graph has 0% .* \(3 in fp32\)'):
        backend.build(graphs['convolution'], tmp_path / 'model.onnx', BuildOptions(precision='fp16'))
    with pytest.raises(BackendError, match='fp32 was asked of onnxruntime'):
        backend.build(graphs['convolution fp16'], tmp_path / 'model.onnx')
    assert list(tmp_path.iterdir()) == []


def test_profile(runner: Runner, image: torch.Tensor) -> None:
    costs = runner.profile({'image': image}, runs=3)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    assert sum('Conv' in cost.kind for cost in costs) == 3
    assert all(0 <= cost.milliseconds < 1000 for cost in costs)
    assert [cost.milliseconds for cost in costs] == sorted((cost.milliseconds for cost in costs), reverse=True)


def test_bad_inputs_are_named(runner: Runner, image: torch.Tensor) -> None:
    bad = image.clone()
    bad[0, 2, 5, 7] = float('nan')
    for feed, message in (
        ({}, r"input 'image' is missing: the engine takes image float32 \(1, 3, 32, 32\)"),
        ({'image': image, 'mask': image}, "'mask' is no input of it"),
        ({'image': image.double()}, "input 'image' is float64, the engine takes image float32"),
        ({'image': image.byte()}, "input 'image' is uint8"),
        ({'image': image[..., :31]}, r'has the shape \(1, 3, 32, 31\), the engine takes .*: resize or pad it'),
        ({'image': image[0]}, r'has the shape \(3, 32, 32\)'),
        ({'image': image.numpy()}, "input 'image' is a ndarray, not a torch.Tensor"),
        ({'image': bad}, r"input 'image' has nan at \(0, 2, 5, 7\) and 1 such values in all"),
        ({'image': image / 0}, r"input 'image' has -?inf at \(0, 0, 0, 0\) and 3072 such"),
    ):
        with pytest.raises(BackendError, match=message):
            runner(feed)  # type: ignore[arg-type]
    runner.close()
    with pytest.raises(BackendError, match='the engine is closed'):
        runner({'image': image})


def test_finite_values_whose_sum_overflows_are_fine(runner: Runner, image: torch.Tensor) -> None:
    runner({'image': torch.full_like(image, 3e38)})


def test_the_check_can_be_left_out(graphs: dict[str, Path], backend: Backend, image: torch.Tensor) -> None:
    options = LoadOptions(check_finite=False)
    with backend.load(graphs['convolution'], require_card=False, options=options) as loose:
        assert loose({'image': torch.full_like(image, float('nan'))})['features'].isnan().all()


def test_dynamic_batch(backend: Backend, tmp_path: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    text = f'{header} g (float[N, 4] a, float[N, 4] b) => (float[N, 4] c) {{ c = Add (a, b) }}'
    onnx.save_model(onnx.parser.parse_model(text), str(tmp_path / 'm.onnx'))
    with backend.load(tmp_path / 'm.onnx', require_card=False) as runner:
        assert runner({'a': torch.ones(3, 4), 'b': torch.ones(3, 4)})['c'].shape == (3, 4)
        with pytest.raises(BackendError, match=r"input 'b' has the shape \(2, 4\)"):
            runner({'a': torch.ones(3, 4), 'b': torch.ones(2, 4)})
        with pytest.raises(BackendError, match=r"input 'a' has the shape \(0, 4\)"):
            runner({'a': torch.ones(0, 4), 'b': torch.ones(0, 4)})


def test_binding_to_torchs_memory(graphs: dict[str, Path], tmp_path: Path, image: torch.Tensor) -> None:
    """The path of CUDA devices, on the CPU's memory: addresses, types, shapes known before and after the run."""
    options = LoadOptions(threads=1)
    with _BoundRunner(graphs['convolution'], torch.device('cpu'), options) as runner:
        expected = by_torch(graphs['convolution'], image)
        first, second = runner({'image': image}), runner({'image': image})
        torch.testing.assert_close(first['features'], expected, rtol=1e-4, atol=1e-5)
        assert first['features'].data_ptr() != second['features'].data_ptr()
    with _BoundRunner(graphs['top k'], torch.device('cpu'), options) as runner:
        score = torch.from_numpy(probe_feed('top k')['score'])
        found = runner({'score': score})
        assert torch.equal(found['index'], score.topk(100).indices)
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    body = '{ where = NonZero (x) positive = Greater (x, x) }'
    text = f'{header} g (float[N] x) => (int64[1, K] where, bool[N] positive) {body}'
    onnx.save_model(onnx.parser.parse_model(text), str(tmp_path / 'm.onnx'))
    with _BoundRunner(tmp_path / 'm.onnx', torch.device('cpu'), options) as runner:
        found = runner({'x': torch.tensor([0.0, 2.0, 0.0, 1.0])})
        assert found['where'].tolist() == [[1, 3]]
        assert found['positive'].tolist() == [False] * 4


def test_a_recorded_graph_keeps_its_memory(graphs: dict[str, Path], image: torch.Tensor) -> None:
    """What a CUDA graph needs, on the CPU's memory: inputs copied in, outputs copied out."""
    runner = _BoundRunner(graphs['convolution'], torch.device('cpu'), LoadOptions(cuda_graph=True))
    first, second = runner({'image': image}), runner({'image': 2 * image})
    torch.testing.assert_close(first['features'], by_torch(graphs['convolution'], image), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second['features'], 2 * first['features'], rtol=1e-4, atol=1e-5)


def test_what_is_no_model(backend: Backend, graphs: dict[str, Path], tmp_path: Path) -> None:
    whole = graphs['convolution'].read_bytes()
    for content, message in (
        (b'', 'the file is empty'),
        (whole[:50], 'truncated|without a graph|not a valid ONNX'),
        (whole[: len(whole) // 2], 'truncated|without a graph|not a valid ONNX'),
        (b'\x89PNG\r\n\x1a\n' + b'\0' * 100, 'truncated or another kind of file'),
        (os.urandom(64) + b'x', 'truncated or another kind of file|not a valid ONNX'),
    ):
        path = tmp_path / 'model.onnx'
        path.write_bytes(content)
        with pytest.raises(BackendError, match=message) as caught:
            backend.load(path, require_card=False)
        assert str(path) in str(caught.value)
    with pytest.raises(BackendError, match=r'missing\.onnx: no such file'):
        backend.load(tmp_path / 'missing.onnx')
    with pytest.raises(BackendError, match=r'missing\.onnx: no such file'):
        backend.build(tmp_path / 'missing.onnx', tmp_path / 'x.onnx')


def test_devices(backend: Backend, graphs: dict[str, Path]) -> None:
    path = graphs['convolution']
    with pytest.raises(BackendError, match=r"device='gpu' is no device: give 'cpu', 'cuda' or 'cuda:0'"):
        backend.load(path, 'gpu', require_card=False)
    with pytest.raises(BackendError, match=r"device='mps': engines run on 'cpu' or 'cuda'"):
        backend.load(path, 'mps', require_card=False)
    with pytest.raises(BackendError, match=r"cuda_graph=True: needs device='cuda', not 'cpu'"):
        backend.load(path, require_card=False, options=LoadOptions(cuda_graph=True))
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match=r"device='cuda': this machine has no CUDA GPU that PyTorch sees"):
            backend.load(path, 'cuda', require_card=False)


def test_options_of_another_backend_are_refused(backend: Backend, graphs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r'BuildOptions\.workspace_mib=64: onnxruntime has no such option'):
        backend.build(graphs['convolution'], tmp_path / 'x.onnx', BuildOptions(workspace_mib=64))


def test_weights_in_another_file_are_taken_in(backend: Backend, graphs: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load_model(str(graphs['convolution']))
    apart = tmp_path / 'apart.onnx'
    onnx.save_model(model, str(apart), save_as_external_data=True, location='apart.data', size_threshold=0)
    engine = tmp_path / 'engine' / 'whole.onnx'
    backend.build(apart, engine)
    feed = {'image': torch.from_numpy(probe_feed('convolution')['image'])}
    with backend.load(engine, require_card=False) as runner:
        expected = by_torch(graphs['convolution'], feed['image'])
        torch.testing.assert_close(runner(feed)['features'], expected, rtol=1e-4, atol=1e-5)
    (tmp_path / 'apart.data').unlink()
    with pytest.raises(BackendError, match=r'apart\.onnx'):
        backend.build(apart, engine)


def test_facts_of_a_graph(graphs: dict[str, Path]) -> None:
    facts = read_graph(graphs['attention'])
    assert facts.products == {'fp32': 5}
    assert facts.floats == {'fp32': 8}  # with LayerNormalization, Softmax and Add; Transpose computes nothing
    assert facts.nodes_by_type['MatMul'] == 5
    assert read_graph(graphs['attention fp16']).products == {'fp16': 5}
    assert read_graph(graphs['convolution int8']).products == {'int8': 3}
    assert read_graph(graphs['top k']).floats == {'fp32': 1}
    assert not facts.external


def test_types_are_inferred_without_the_weights(graphs: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load_model(str(graphs['attention fp16']))
    model.graph.ClearField('value_info')  # an exporter need not write it
    assert max(len(tensor.raw_data) for tensor in model.graph.initializer) > 1024
    onnx.save_model(model, str(tmp_path / 'bare.onnx'))
    assert read_graph(tmp_path / 'bare.onnx') == read_graph(graphs['attention fp16'])


def test_probe_feeds_are_reproducible() -> None:
    assert np.array_equal(probe_feed('matrix NMS')['boxes'], probe_feed('matrix NMS')['boxes'])
