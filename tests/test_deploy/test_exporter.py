"""Writing a graph: whole or not at all, checked, described."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from onnx import TensorProto, helper
from torch import Tensor, nn

from mmtrtvit.deploy import exporter as export_module
from mmtrtvit.deploy.exporter import ExportError, check, nodes_of, scope_of
from mmtrtvit.deploy.graphs import DeployGraph, GraphOptions
from mmtrtvit.deploy.graphs.base import Float32Island
from mmtrtvit.deploy.ops.nms import NMSOptions
from mmtrtvit.errors import UserError

export = export_module.export


class Island(Float32Island):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class Small(DeployGraph):
    """The smallest graph: exported in a second."""

    task = 'classification'
    output_names = ('scores',)

    def __init__(self, layer: nn.Module | None = None, **options: Any) -> None:
        preprocessor = nn.Module()
        preprocessor.mean, preprocessor.std = torch.full((3,), 100.0), torch.full((3,), 50.0)
        super().__init__(_Model(preprocessor), GraphOptions(**{'height': 16, 'width': 24, **options}))
        self.backbone = layer or nn.Conv2d(3, 4, 3)
        self.island = Island()
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.island(self.backbone(self.normalize(image)).mean((2, 3))),)


class _Model:
    def __init__(self, preprocessor: nn.Module) -> None:
        self.data_preprocessor = preprocessor


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.max()) if float(x.mean()) > 0 else x


class Interrupt:
    """A progress callback that stops at a step, as Ctrl-C would."""

    def __init__(self, at: str) -> None:
        self.at, self.seen = at, list[str]()

    def __call__(self, step: str) -> None:
        self.seen.append(step)
        if step == self.at:
            raise KeyboardInterrupt


def test_the_report_is_of_the_file(tmp_path: Path) -> None:
    steps: list[str] = []
    path = tmp_path / 'new folder' / 'small.onnx'
    report = export(Small(), path, metadata={'note': 'text', 'numbers': [1, 2]}, progress=steps.append)
    assert steps == ['exporting', 'optimising', 'checking']
    assert report.path == path
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.opset == 20
    assert report.nodes == sum(report.operators.values()) <= report.nodes_exported
    assert report.operators['Conv'] == report.operators['Softmax'] == 1
    assert list(report.operators.values()) == sorted(report.operators.values(), reverse=True)
    assert 0 < report.seconds < 300
    assert 100 < report.peak_memory_mib < 100_000
    model = onnx.load_model(str(path))
    meta = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(meta['mmtrtvit.float32_scopes']) == ['normalize', 'island']
    assert json.loads(meta['mmtrtvit.options'])['task'] == 'classification'
    assert meta['note'] == 'text'
    assert json.loads(meta['numbers']) == [1, 2]
    assert {scope_of(node) for node in nodes_of(model.graph)} >= {'backbone', 'island'}
    assert [path.name for path in path.parent.iterdir()] == ['small.onnx']


def test_the_same_graph_gives_the_same_file(tmp_path: Path) -> None:
    graph = Small()
    assert export(graph, tmp_path / 'a.onnx').sha256 == export(graph, tmp_path / 'b.onnx').sha256


def test_uint8_is_normalised_within(tmp_path: Path) -> None:
    import onnxruntime

    graph = Small(image_dtype='uint8')
    report = export(graph, tmp_path / 'small.onnx')
    image = graph.example_input()
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (1, 16, 24, 3))
    session = onnxruntime.InferenceSession(str(report.path), providers=['CPUExecutionProvider'])
    (found,) = session.run(None, {'image': image.numpy()})
    by_hand = (image.permute(0, 3, 1, 2).float() - 100) / 50
    expected = graph.backbone(by_hand).mean((2, 3)).softmax(1)
    torch.testing.assert_close(torch.from_numpy(found), expected.detach(), atol=1e-6, rtol=0)


def test_a_dynamic_batch_is_the_only_open_size(tmp_path: Path) -> None:
    report = export(Small(), tmp_path / 'small.onnx', dynamic_batch=True)
    graph = onnx.load_model(str(report.path)).graph
    shape = [size.dim_param or size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ['batch', 3, 16, 24]


def test_a_batch_that_is_taken_for_a_constant_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2.0 if len(x) == 5 else 1.0)  # len gives a plain int

    with pytest.raises(ExportError, match=r'Small with backbone Counting: something .* leave out dynamic_batch'):
        export(Small(Counting()), tmp_path / 'm.onnx', dynamic_batch=True)
    assert not list(tmp_path.iterdir())
    assert export(Small(Counting(), batch_size=5), tmp_path / 'm.onnx').nodes


def test_deformable_convolutions_are_taken_apart(tmp_path: Path) -> None:
    class Deforming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ModulatedDeformConv2dPack(3, 4, 3, padding=1)
            nn.init.normal_(self.conv.conv_offset.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    torch.manual_seed(0)
    graph = Small(Deforming())
    report = export(graph, tmp_path / 'm.onnx')
    assert (report.operators.get('DeformConv'), report.operators['GridSample']) == (None, 1)
    found = ort.InferenceSession(str(report.path)).run(None, {'image': graph.example_input().numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), graph(graph.example_input())[0], atol=1e-4, rtol=0)
    graph = Small(Deforming(), deform_conv='onnx')
    assert export(graph, tmp_path / 'own.onnx').operators['DeformConv'] == 1
    with pytest.raises(ExportError, match=r'Small with backbone Deforming: something .* leave out dynamic_batch'):
        export(Small(Deforming()), tmp_path / 'dynamic.onnx', dynamic_batch=True)


def test_constants_that_the_optimiser_gave_one_name_are_kept(tmp_path: Path) -> None:
    """As DETR has them, an inverse sigmoid in two precisions: of each Clip of a Clip onnxscript makes one."""

    class Clips(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.sigmoid()
            return torch.cat([x.clamp(0.2, 0.9).clamp(min=low) for low in (0.3, 0.4, 0.5)], 1)

    graph = Small(Clips())
    report = export(graph, tmp_path / 'm.onnx')
    assert report.operators['Clip'] == 3
    found = ort.InferenceSession(str(report.path)).run(None, {'image': graph.example_input().numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), graph(graph.example_input())[0])


@pytest.mark.parametrize('step', ['exporting', 'optimising', 'checking'])
def test_an_interrupted_export_leaves_what_was_there(step: str, tmp_path: Path) -> None:
    path = tmp_path / 'small.onnx'
    path.write_bytes(b'the old one')
    interrupt = Interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        export(Small(), path, progress=interrupt)
    assert interrupt.seen[-1] == step
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {'small.onnx': b'the old one'}


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: onnx.ModelProto, path: str) -> None:
        Path(path).write_bytes(model.SerializeToString()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(export_module.onnx, 'save', full)
    with pytest.raises(OSError, match=r'small\.onnx: .*the disk is full: free some space or choose another place'):
        export(Small(), tmp_path / 'small.onnx')
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_checker_refuses_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, full_check: bool) -> None:
        assert full_check
        raise onnx.checker.ValidationError('broken')

    monkeypatch.setattr(export_module.onnx.checker, 'check_model', refuse)
    with pytest.raises(onnx.checker.ValidationError):
        export(Small(), tmp_path / 'small.onnx')
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError,
        match=rf'^Small with backbone Unexportable: torch {re.escape(torch.__version__)} cannot export it: Guard',
    ):
        export(Small(Unexportable()), tmp_path / 'small.onnx')
    assert list(tmp_path.iterdir()) == []
    assert issubclass(ExportError, UserError)


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r'opset=17: at least 20 is needed \(GridSample'):
        export(Small(), tmp_path / 'small.onnx', opset=17)


def model_of(*operators: str, domain: str = '') -> onnx.ModelProto:
    nodes = [helper.make_node(kind, ['x'], [f'y{i}'], f'node{i}', domain=domain) for i, kind in enumerate(operators)]
    value = helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(nodes, 'g', [value], []))


@pytest.mark.parametrize('operator', ['NonZero', 'Unique', 'Compress', 'NonMaxSuppression', 'RoiAlign'])
def test_shapes_that_depend_on_the_data_are_refused(operator: str) -> None:
    with pytest.raises(
        ExportError, match=rf'node node1: {operator} has no static form in TensorRT; it comes from an unn'
    ):
        check(model_of('Relu', operator), Small())


def test_the_refusal_names_the_module() -> None:
    model = model_of('NonZero')
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = 'pkg.torch.onnx.name_scopes', "['', 'neck', 'neck.block', 'nonzero']"
    with pytest.raises(
        ExportError, match=r'NonZero has no static form in TensorRT; it comes from neck\.block of Small'
    ):
        check(model, Small())


def test_the_backends_own_nodes_are_allowed_where_they_are_asked_for() -> None:
    both = model_of('NonMaxSuppression', 'RoiAlign')
    assert check(both, Small(nms=NMSOptions(form='onnx'), roi_align='onnx')) == {'NonMaxSuppression': 1, 'RoiAlign': 1}
    with pytest.raises(ExportError, match='node node1: RoiAlign has no static form'):
        check(both, Small(nms=NMSOptions(form='onnx')))
    with pytest.raises(ExportError, match='node node0: NonMaxSuppression has no static form'):
        check(both, Small(roi_align='onnx'))


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    """mmseg's SegNeXt draws its bases in every prediction: nothing could be equal to it."""

    class Noisy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(4, 1, 1)

    with pytest.raises(ExportError, match=r'draws other numbers at every call, .*; it comes from backbone of Small'):
        export(Small(Noisy(3, 4, 3)), tmp_path / 'small.onnx')
    assert not list(tmp_path.iterdir())


def test_custom_domains_are_refused() -> None:
    with pytest.raises(ExportError, match=r'node node0: operator mmdeploy\.TRTBatchedNMS is of a custom domain'):
        check(model_of('TRTBatchedNMS', domain='mmdeploy'), Small())


def test_nodes_within_loops_are_seen() -> None:
    body = helper.make_graph([helper.make_node('NonZero', ['x'], ['y'])], 'body', [], [])
    loop = helper.make_node('Loop', ['n', 'c'], ['z'], 'loop', body=body)
    model = helper.make_model(helper.make_graph([loop], 'g', [], []))
    with pytest.raises(ExportError, match='NonZero has no static form'):
        check(model, Small())
    assert [node.op_type for node in nodes_of(model.graph)] == ['Loop', 'NonZero']
