from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

pytest.importorskip('onnxruntime')

from mmtrtvit.deploy.backends import BuildOptions, get_backend
from mmtrtvit.deploy.backends.graph import read_graph
from mmtrtvit.deploy.exporter import FLOAT32_SCOPES, export, scope_of
from mmtrtvit.deploy.graphs import GraphOptions, build_graph
from mmtrtvit.deploy.ops.nms import NMSOptions
from mmtrtvit.deploy.precision import PrecisionReport, emulate_fp16, to_fp16, to_int8
from mmtrtvit.deploy.precision.files import types_of
from mmtrtvit.deploy.precision.islands import in_scopes
from tests.test_deploy.models import TRTVIT, TRTVIT_CHANNELS, TWINS, build, normalized, pictures
from tests.test_deploy.text_graphs import Feed, run

PRODUCTS = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm')


@dataclass
class Exported:
    """A small Mask R-CNN with a TRT-ViT backbone, and what the passes made of it."""

    fp32: Path
    feeds: list[Feed]
    fp16: PrecisionReport
    int8: PrecisionReport
    mixed: PrecisionReport

    def model(self, name: str) -> onnx.ModelProto:
        path = self.fp32 if name == 'fp32' else getattr(self, name).path
        return onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True, data_prop=True)


@pytest.fixture(scope='module')
def mask_rcnn(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp('precision')
    model = build('mask-rcnn', {'backbone': TRTVIT, 'neck.in_channels': TRTVIT_CHANNELS})
    few_rounds = NMSOptions(rounds=4)  # a smaller graph, not always exact
    graph = build_graph(model, GraphOptions(height=96, width=96, image_dtype='uint8', nms=few_rounds))
    fp32 = export(graph, folder / 'fp32.onnx').path
    feeds = [{'image': pictures(1, 96, 96, first).numpy()} for first in range(4)]
    return Exported(
        fp32,
        feeds,
        to_fp16(fp32, folder / 'fp16.onnx'),
        to_int8(fp32, folder / 'int8.onnx', feeds),
        to_int8(fp32, folder / 'mixed.onnx', feeds, rest='fp16'),
    )


def float_types(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Node name -> which floating types its inputs and outputs have."""
    types = types_of(model.graph)
    return {
        node.name: {types.get(name, 0) for name in (*node.input, *node.output)}
        & {TensorProto.FLOAT, TensorProto.FLOAT16}
        for node in model.graph.node
    }


@pytest.mark.parametrize('name', ['fp16', 'int8', 'mixed'])
def test_inputs_and_outputs_stay_as_they_are(mask_rcnn: Exported, name: str) -> None:
    facts, before = read_graph(getattr(mask_rcnn, name).path), read_graph(mask_rcnn.fp32)
    assert facts.inputs == before.inputs
    assert facts.outputs == before.outputs
    assert [spec.dtype for spec in facts.inputs] == ['uint8']
    assert {spec.name: spec.dtype for spec in facts.outputs} == {
        'boxes': 'float32', 'scores': 'float32', 'labels': 'int64', 'num_dets': 'int64', 'exact': 'bool',
        'masks': 'float32',
    }  # fmt: skip


@pytest.mark.parametrize('name', ['fp16', 'mixed'])
def test_islands_stay_float32(mask_rcnn: Exported, name: str) -> None:
    before, after = mask_rcnn.model('fp32'), mask_rcnn.model(name)
    scopes = json.loads(next(e.value for e in before.metadata_props if e.key == FLOAT32_SCOPES))
    assert set(scopes) >= {'normalize', 'proposals', 'roi_head.select'}
    floats_before, floats = float_types(before), float_types(after)
    islands = [node for node in before.graph.node if in_scopes(scope_of(node), scopes) and node.op_type != 'Constant']
    assert len(islands) > 300
    for node in islands:
        if floats_before[node.name]:
            assert floats[node.name] == {TensorProto.FLOAT}, node.name
    # also what no scope names: sampling points, and operators that sort, sum or exponentiate
    sorting = [node for node in after.graph.node if node.op_type in ('TopK', 'GridSample', 'Exp', 'ReduceMean', 'Sqrt')]
    assert {node.op_type for node in sorting} == {'TopK', 'GridSample', 'Exp', 'ReduceMean', 'Sqrt'}
    for node in sorting:
        assert floats[node.name] == {TensorProto.FLOAT}, node.name


@pytest.mark.parametrize('name', ['fp16', 'mixed'])
def test_no_value_of_an_island_is_rounded_on_its_way(mask_rcnn: Exported, name: str) -> None:
    model = mask_rcnn.model(name)
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == 'Cast'}
    types = types_of(model.graph)
    for node in casts.values():
        before = casts.get(node.input[0])
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
        assert before is None or types[before.input[0]] not in floats or types[node.output[0]] not in floats
        assert types[node.input[0]] != types[node.output[0]]
    pairs = [(node.input[0], types[node.output[0]]) for node in casts.values()]
    assert len(pairs) == len(set(pairs))


def test_fp16_takes_all_products_outside_the_islands(mask_rcnn: Exported) -> None:
    report, model = mask_rcnn.fp16, mask_rcnn.model('fp16')
    assert report.products == read_graph(report.path).products
    floats = float_types(model)
    outside = {
        node.name: floats[node.name]
        for node in model.graph.node
        if node.op_type in PRODUCTS and not scope_of(node).startswith(('proposals', 'roi_head.select'))
    }
    # rpn_cls and rpn_reg of five levels, fc_cls and fc_reg: what is sorted, and is cheap
    scores = {name for name, types in outside.items() if types == {TensorProto.FLOAT}}
    assert len(scores) == 12
    assert scores <= set(report.kept['scores'])
    assert all(types == {TensorProto.FLOAT16} for name, types in outside.items() if name not in scores)
    assert report.share == pytest.approx(1 - 12 / sum(report.products.values()))
    assert report.share > 0.8
    assert report.kept_counts.keys() == {'scope', 'coordinates', 'operator', 'scores'}
    assert f'{report.products["fp16"]} fp16' in str(report)
    assert json.loads(json.dumps(report.to_dict()))['kept'] == report.kept_counts


def test_layer_normalization_stays_one_node(mask_rcnn: Exported) -> None:
    for name in ('fp16', 'int8', 'mixed'):
        model = mask_rcnn.model(name)
        floats = float_types(model)
        norms = [node for node in model.graph.node if node.op_type == 'LayerNormalization']
        assert (
            len(norms) == sum(node.op_type == 'LayerNormalization' for node in mask_rcnn.model('fp32').graph.node) > 0
        )
        for node in norms:
            assert floats[node.name] == {TensorProto.FLOAT if name == 'int8' else TensorProto.FLOAT16}
            assert (
                next((a.i for a in node.attribute if a.name == 'stash_type'), 1) == TensorProto.FLOAT
            )  # its statistics


@pytest.mark.parametrize(('name', 'limit'), [('fp16', 0.02), ('int8', 0.25), ('mixed', 0.25)])
def test_detections_stay_close(mask_rcnn: Exported, name: str, limit: float) -> None:
    """The best detections of pictures that were not calibrated on; NMS may decide one pair the other way."""
    path, differences = getattr(mask_rcnn, name).path, []
    if name != 'int8':
        emulate_fp16(path, path := path.with_name('emulated.onnx'))
    for picture in (7, 8, 9):
        feed = {'image': pictures(1, 96, 96, picture).numpy()}
        exact, found = run(mask_rcnn.fp32, feed), run(path, feed)
        differences += [*np.abs(exact['scores'] - found['scores'])[0, :5]]
        assert abs(int(exact['num_dets'][0]) - int(found['num_dets'][0])) <= 2
        for output in ('boxes', 'scores', 'masks'):
            assert np.isfinite(found[output]).all()
    assert sorted(differences)[-2] < limit


def test_int8_weights_have_a_scale_a_channel_and_nothing_has_a_zero_point(mask_rcnn: Exported) -> None:
    model = mask_rcnn.model('int8')
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    quantized = [node for node in model.graph.node if node.op_type in PRODUCTS and is_quantized(node, makers)]
    assert len(quantized) == mask_rcnn.int8.products['int8'] > 50
    for node in quantized:
        weight = makers[node.input[1]]
        assert weight.op_type == 'DequantizeLinear', node.name
        values, scales, zeros = (constants[name] for name in weight.input)
        axis = next(attribute.i for attribute in weight.attribute if attribute.name == 'axis')
        assert values.dtype == np.int8
        assert np.abs(values).max() <= 127
        transposed = any(a.name == 'transB' and a.i for a in node.attribute)
        assert (
            axis % values.ndim
            == {'Conv': 0, 'ConvTranspose': 1, 'MatMul': 1, 'Gemm': 0 if transposed else 1}[node.op_type]
        )
        assert scales.shape == (values.shape[axis],)
        assert (scales > 0).all()
        assert not zeros.any()
        if len(node.input) > 2:  # TensorRT wants biases in float
            assert constants[node.input[2]].dtype == np.float32
    for node in model.graph.node:
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()


def is_quantized(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    return node.input[0] in makers and makers[node.input[0]].op_type == 'DequantizeLinear'


@pytest.mark.parametrize('name', ['int8', 'mixed'])
def test_int8_values_reach_quantized_products_and_their_shortcuts_only(mask_rcnn: Exported, name: str) -> None:
    model = mask_rcnn.model(name)
    makers = {output: node for node in model.graph.node for output in node.output}
    readers = set()
    for node in model.graph.node:
        for tensor in node.input:
            if tensor in makers and makers[tensor].op_type == 'DequantizeLinear':
                readers.add(node.op_type)
                assert node.op_type in PRODUCTS or is_shortcut(node, tensor, makers), node.name
    assert 'Add' in readers
    left = mask_rcnn.int8.kept_counts
    # two products of activations in each attention, and one with the mask weights of each detection's class
    assert left['activations'] == 4 * 2 + 1
    assert left['input'] == 1
    assert left['output'] == 10 + 2  # rpn_cls and rpn_reg of five levels, fc_cls and fc_reg


def is_shortcut(node: onnx.NodeProto, tensor: str, makers: dict[str, onnx.NodeProto]) -> bool:
    others = [name for name in node.input if name != tensor]
    return node.op_type == 'Add' and makers[others[0]].op_type == 'Conv' and is_quantized(makers[others[0]], makers)


@pytest.mark.parametrize(('name', 'asked'), [('fp16', 'fp16'), ('mixed', 'int8')])
def test_tensorrt_rtx_builds_what_was_asked(mask_rcnn: Exported, name: str, asked: str, tmp_path: Path) -> None:
    backend = get_backend('tensorrt-rtx')
    if not backend.availability().can_build:
        pytest.skip(backend.availability().no_build)
    report = getattr(mask_rcnn, name)
    built = backend.build(report.path, tmp_path / 'engine', BuildOptions(precision=asked))
    assert built.precision_obtained == asked
    assert built.precision_share == pytest.approx(report.share, abs=0.05)
    assert built.layers_by_type['NORMALIZATION'] == 8


@pytest.mark.slow
def test_twins_retinanet_in_every_precision(tmp_path: Path) -> None:
    model = build('retinanet', {'backbone': TWINS})
    graph = build_graph(model, GraphOptions(height=96, width=128, batch_size=2))
    fp32 = export(graph, tmp_path / 'fp32.onnx').path
    feeds = [{'image': normalized(model, pictures(2, 96, 128, first)).numpy()} for first in range(0, 8, 2)]
    exact = run(fp32, feeds[0])
    backend = get_backend('tensorrt-rtx')
    for asked, report, limit in (
        ('fp16', to_fp16(fp32, tmp_path / 'fp16.onnx', batches=feeds), 0.02),
        ('int8', to_int8(fp32, tmp_path / 'int8.onnx', feeds, method='percentile'), 0.2),
    ):
        found = run(report.path, feeds[0])
        assert np.abs(exact['scores'] - found['scores'])[:, :5].max() < limit
        if backend.availability().can_build:
            backend.build(report.path, tmp_path / 'engine', BuildOptions(precision=asked))
