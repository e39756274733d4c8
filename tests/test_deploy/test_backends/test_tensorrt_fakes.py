"""Our adapter against recorded API surfaces of TensorRT 10, 11 and RTX: it must need nothing that they lack.

No TensorRT 10 or 11 and no GPU took part: the surfaces of 10 and 11 are written after the documentation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrtvit.deploy.backends import BackendError, BuildOptions, LoadOptions
from mmtrtvit.deploy.backends.tensorrt import TensorRTBackend, TensorRTRTXBackend
from mmtrtvit.deploy.backends.tensorrt_api import inspector_tally
from mmtrtvit.deploy.backends.tensorrt_run import TensorRTRunner, runtime_cache_path
from tests.test_deploy.test_backends.fake_tensorrt import Behaviour, FakeGraph, FakeModule, pretend_cuda
from tests.test_deploy.test_backends.recording import load_surface, record

SURFACES = {
    'tensorrt-10': TensorRTBackend,
    'tensorrt-11': TensorRTBackend,
    'tensorrt_rtx-1.7': TensorRTRTXBackend,
}
STANDARD = ('tensorrt-10', 'tensorrt-11')
IDENTITY = """<ir_version: 10, opset_import: ["" : 20]>
double (float[N, 4] image) => (float[N, 4] scores) {
    scores = Relu (image)
}"""


@pytest.fixture
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    """A graph with a free batch."""
    import onnx

    onnx.save_model(onnx.parser.parse_model(IDENTITY), str(tmp_path / 'dynamic.onnx'))
    return tmp_path / 'dynamic.onnx'


def built(name: str, onnx: Path, engine: Path, **options: Any) -> tuple[FakeModule, Any]:
    module = FakeModule(name)
    return module, SURFACES[name](module).build(onnx, engine, BuildOptions(**options))


def loaded(name: str, dynamic: Path, **options: Any) -> tuple[FakeModule, TensorRTRunner]:
    module, _ = built(name, dynamic, dynamic.with_suffix('.engine'), batch=(1, 2, 4))
    module.calls.clear()
    engine = dynamic.with_suffix('.engine')
    return module, TensorRTRunner(module, 'TensorRT', engine, torch.device('cpu'), LoadOptions(**options))


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('name', SURFACES)
def test_build_calls_what_each_version_has(name: str, graphs: dict[str, Path], tmp_path: Path) -> None:
    module, report = built(name, graphs['convolution'], tmp_path / 'e.engine')
    calls = [call for call in module.names() if call.partition('.')[0] in ('Builder', 'OnnxParser', 'Runtime')]
    assert calls == [
        'Builder.create_network',
        'OnnxParser.parse_from_file',
        'Builder.create_builder_config',
        'Builder.build_serialized_network',
        'Runtime.deserialize_cuda_engine',
    ]
    flag = int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert ('Builder', 'create_network', 1 << flag) in module.calls
    assert 'IBuilderConfig.progress_monitor=' in module.names()
    assert report.precision_share == 1.0
    assert report.precision_source == 'network'
    assert (report.gpu, report.compute_capability) == ('Pretended GPU', '8.6')
    assert report.engine_bytes == (tmp_path / 'e.engine').stat().st_size
    assert [str(spec) for spec in report.inputs] == ['image float32 (1, 3, 32, 32)']
    assert 'inspector does not tell' in report.warnings[0]


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('name', STANDARD)
def test_every_option_reaches_the_library(name: str, dynamic: Path, tmp_path: Path) -> None:
    cache = tmp_path / 'timing.cache'
    options = dict(
        optimization_level=4,
        workspace_mib=512,
        timing_cache=str(cache),
        version_compatible=True,
        hardware_compatible='ampere_plus',
        profiling='layer_names',
        batch=(1, 2, 4),
        tf32=False,
        max_aux_streams=2,
    )
    module, report = built(name, dynamic, tmp_path / 'e.engine', **options)
    for call in (
        ('IBuilderConfig', 'builder_optimization_level=', 4),
        ('IBuilderConfig', 'set_memory_pool_limit', module.MemoryPoolType.WORKSPACE, 512 << 20),
        ('IBuilderConfig', 'set_flag', module.BuilderFlag.VERSION_COMPATIBLE),
        ('IBuilderConfig', 'clear_flag', module.BuilderFlag.TF32),
        ('IBuilderConfig', 'hardware_compatibility_level=', module.HardwareCompatibilityLevel.AMPERE_PLUS),
        ('IBuilderConfig', 'profiling_verbosity=', module.ProfilingVerbosity.LAYER_NAMES_ONLY),
        ('IBuilderConfig', 'max_aux_streams=', 2),
        ('IBuilderConfig', 'create_timing_cache', b''),
        ('IOptimizationProfile', 'set_shape', 'image', (1, 4), (2, 4), (4, 4)),
    ):
        assert call in module.calls
    assert cache.read_bytes() == b'timed;'
    typed = ' --stronglyTyped' if name == 'tensorrt-10' else ''
    assert report.trtexec == (
        f'trtexec --onnx={dynamic} --saveEngine={tmp_path}/e.engine{typed} --builderOptimizationLevel=4 '
        f'--memPoolSize=workspace:512M --timingCacheFile={cache} --versionCompatible '
        '--hardwareCompatibilityLevel=ampere+ --maxAuxStreams=2 --noTF32 --profilingVerbosity=layer_names_only '
        '--minShapes=image:1x4 --optShapes=image:2x4 --maxShapes=image:4x4 --skipInference'
    )
    again, _ = built(name, dynamic, tmp_path / 'e.engine', **options)
    assert ('IBuilderConfig', 'create_timing_cache', b'timed;') in again.calls


@pytest.mark.usefixtures('_cuda')
def test_foreign_timing_cache_is_refused(dynamic: Path, tmp_path: Path) -> None:
    cache = tmp_path / 'timing.cache'
    cache.write_bytes(b'foreign')
    with pytest.raises(BackendError, match=r'timing\.cache is not a timing cache of this GPU and version: remove it'):
        built('tensorrt-10', dynamic, tmp_path / 'e.engine', batch=(1, 2, 4), timing_cache=str(cache))
    assert cache.read_bytes() == b'foreign'
    assert not (tmp_path / 'e.engine').exists()


@pytest.mark.usefixtures('_cuda')
def test_a_level_that_this_version_lacks_is_refused(dynamic: Path, tmp_path: Path) -> None:
    options = dict(hardware_compatible='same_compute_capability', batch=(1, 2, 4))
    built('tensorrt-11', dynamic, tmp_path / 'e.engine', **options)
    with pytest.raises(BackendError, match=r"TensorRT 10\.0 does not have it: use 'ampere_plus'"):
        built('tensorrt-10', dynamic, tmp_path / 'f.engine', **options)


@pytest.mark.usefixtures('_cuda')
def test_rtx_targets_compute_capabilities(graphs: dict[str, Path], tmp_path: Path) -> None:
    module, report = built(
        'tensorrt_rtx-1.7', graphs['convolution'], tmp_path / 'e.engine', compute_capabilities=('8.6', '12.0')
    )
    members = module.ComputeCapability
    assert ('IBuilderConfig', 'num_compute_capabilities=', 2) in module.calls
    assert ('IBuilderConfig', 'set_compute_capability', members.SM86, 0) in module.calls
    assert ('IBuilderConfig', 'set_compute_capability', members.SM120, 1) in module.calls
    assert '--computeCapabilities=8.6,12.0' in report.trtexec
    plain, _ = built('tensorrt_rtx-1.7', graphs['convolution'], tmp_path / 'e.engine')
    assert ('IBuilderConfig', 'num_compute_capabilities=', 0) in plain.calls


def layers(precision: str, old: bool) -> str:
    """The inspector's JSON as 10 writes it, and as 11, which split the field of format and type."""
    written = {'fp16': ('Half', 'FP16'), 'fp32': ('Float', 'FP32')}[precision]
    tensor = (
        {'Name': 't', 'Format/Datatype': f'Row major linear {written[1]} format'}
        if old
        else {'Name': 't', 'Format': 'Row major linear', 'DataType': written[0]}
    )
    layer = {'Name': 'conv1', 'LayerType': 'CaskConvolution', 'Inputs': [tensor], 'Outputs': [tensor]}
    other = {'Name': 'relu1', 'LayerType': 'PointWiseV2', 'Inputs': [tensor], 'Outputs': [tensor]}
    return json.dumps({'Layers': [layer, layer, other, {'Name': 'c', 'LayerType': 'Constant', 'Inputs': []}]})


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('old', [True, False])
def test_the_inspector_decides_where_it_speaks(old: bool, graphs: dict[str, Path], tmp_path: Path) -> None:
    module = FakeModule('tensorrt-10' if old else 'tensorrt-11')
    backend = TensorRTBackend(module)
    module.inspector = layers('fp16', old)
    options = BuildOptions(precision='fp16')
    report = backend.build(graphs['convolution fp16'], tmp_path / 'e.engine', options)
    assert (report.precision_source, report.precision_share, report.layers) == ('inspector', 1.0, 4)
    assert report.layers_by_precision == {'fp16': 3}
    module.inspector = layers('fp32', old)
    with pytest.raises(BackendError, match='fp16 was asked of tensorrt, but the engine has 0% of its convolutions'):
        backend.build(graphs['convolution fp16'], tmp_path / 'f.engine', options)
    assert not (tmp_path / 'f.engine').exists()


def test_the_inspector_leaves_out_what_is_fp32_on_purpose() -> None:
    def layer(name: str, dtype: str) -> dict[str, Any]:
        tensor = {'Name': 't', 'Format': 'Row major linear', 'DataType': dtype}
        return {'Name': name, 'LayerType': 'gemm', 'Inputs': [tensor], 'Outputs': [tensor]}

    fused = [layer('conv1', 'Half'), layer('node_a + node_relu', 'Float'), layer('{ForeignNode[node_b...x]}', 'Float')]
    text = json.dumps({'Layers': fused})
    counted, spared = inspector_tally(text), inspector_tally(text, frozenset({'node_a', 'node_b'}))
    assert counted is not None
    assert counted.products == {'fp16': 1, 'fp32': 2}
    assert spared is not None
    assert spared.products == {'fp16': 1}
    assert inspector_tally(text, frozenset({'node_a', 'lost in a fused layer'})) is None


@pytest.mark.usefixtures('_cuda')
def test_a_failing_build_repeats_what_the_library_said(graphs: dict[str, Path], tmp_path: Path) -> None:
    module = FakeModule('tensorrt-11')
    module.fails = 'Internal Error (could not find any implementation for node conv1)'
    with pytest.raises(BackendError, match=r'TensorRT 11\.0 cannot build an engine: .*for node conv1'):
        TensorRTBackend(module).build(graphs['convolution'], tmp_path / 'e.engine')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('name', SURFACES)
def test_running_binds_by_name_and_runs_on_a_side_stream(name: str, dynamic: Path) -> None:
    module, runner = loaded(name, dynamic)
    image = torch.arange(8.0).reshape(4, 2).t()  # not contiguous
    assert not image.is_contiguous()
    outputs = runner({'image': image})
    assert outputs['scores'].tolist() == (2 * image).tolist()
    calls = [call[1:] for call in module.calls if call[0] == 'IExecutionContext']
    assert calls.pop(0) == ('nvtx_verbosity=', module.ProfilingVerbosity.NONE)
    assert [call[0] for call in calls] == [
        'set_input_shape',
        'set_tensor_address',
        'get_tensor_shape',
        'set_tensor_address',
        'execute_async_v3',
    ]
    assert calls[0] == ('set_input_shape', 'image', (2, 4))
    assert calls[3] == ('set_tensor_address', 'scores', outputs['scores'].data_ptr())
    assert calls[4] == ('execute_async_v3', 7)  # not 0, the default stream
    second = runner({'image': image})
    assert second['scores'].data_ptr() != outputs['scores'].data_ptr()
    with pytest.raises(BackendError, match=r"input 'image' has the shape \(5, 4\), outside the bounds"):
        runner({'image': torch.zeros(5, 4)})
    costs = runner.profile({'image': image}, runs=3)
    assert [(cost.name, cost.milliseconds, cost.share) for cost in costs] == [
        ('conv', 0.75, 0.75),
        ('relu', 0.25, 0.25),
    ]
    runner.close()
    with pytest.raises(BackendError, match='closed'):
        runner({'image': image})


@pytest.mark.usefixtures('_cuda')
def test_rtx_captures_by_itself_and_keeps_its_kernels(dynamic: Path) -> None:
    module, runner = loaded('tensorrt_rtx-1.7', dynamic, cuda_graph=True)
    strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert ('IRuntimeConfig', 'cuda_graph_strategy=', strategy) in module.calls
    path = runtime_cache_path(dynamic.with_suffix('.engine'))
    assert 'IRuntimeCache.deserialize' not in module.names()
    runner.close()
    assert path.read_bytes() == b'kernel;'
    engine = dynamic.with_suffix('.engine')
    with TensorRTRunner(module, 'TensorRT-RTX', engine, torch.device('cpu'), LoadOptions()):
        assert ('IRuntimeCache', 'deserialize', b'kernel;') in module.calls
    assert path.read_bytes() == b'kernel;kernel;'


@pytest.mark.usefixtures('_cuda')
def test_rtx_replays_on_fixed_memory(graphs: dict[str, Path], tmp_path: Path) -> None:
    module, _ = built('tensorrt_rtx-1.7', graphs['attention'], tmp_path / 'e.engine')
    options = LoadOptions(cuda_graph=True)
    with TensorRTRunner(module, 'TensorRT-RTX', tmp_path / 'e.engine', torch.device('cpu'), options) as runner:
        batches = [torch.randn(1, 64, 32) for _ in range(3)]
        before = FakeGraph.replays
        found = [runner({'tokens': tokens})['mixed'] for tokens in batches]
    assert FakeGraph.replays == before  # its own graph, not torch's
    assert all(torch.equal(mixed, 2 * tokens) for mixed, tokens in zip(found, batches, strict=True))
    assert module.names().count('IExecutionContext.set_tensor_address') == 2  # one input and one output, bound once
    assert module.names().count('IExecutionContext.execute_async_v3') == 3


@pytest.mark.usefixtures('_cuda')
def test_rtx_without_anything_to_cache(dynamic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Behaviour, 'iruntimecache_serialize', lambda self: None)
    _, runner = loaded('tensorrt_rtx-1.7', dynamic)
    runner.close()
    assert not runtime_cache_path(dynamic.with_suffix('.engine')).exists()


@pytest.mark.usefixtures('_cuda')
def test_rtx_profiles_with_the_kernels_that_it_has(dynamic: Path) -> None:
    module, runner = loaded('tensorrt_rtx-1.7', dynamic)
    runner.profile({'image': torch.zeros(2, 4)}, runs=1)
    assert module.names().count('IRuntimeConfig.create_runtime_cache') == 1
    assert module.names().count('IRuntimeConfig.set_runtime_cache') == 2


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('name', SURFACES)
def test_an_input_in_the_middle_of_its_memory_is_copied(name: str, dynamic: Path) -> None:
    module, runner = loaded(name, dynamic)
    whole = torch.arange(4096.0).reshape(1024, 4)
    begin = next(row for row in range(1024) if whole[row:].data_ptr() % 256 not in (0, 256))
    image = whole[begin : begin + 2]
    assert torch.equal(runner({'image': image})['scores'], 2 * image)
    assert ('IExecutionContext', 'set_tensor_address', 'image', image.data_ptr()) not in module.calls


@pytest.mark.usefixtures('_cuda')
def test_memory_that_is_not_taken_is_an_error(dynamic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runner = loaded('tensorrt-11', dynamic)
    monkeypatch.setattr(Behaviour, 'iexecutioncontext_set_tensor_address', lambda self, name, address: False)
    with pytest.raises(BackendError, match=r"TensorRT 11\.0 does not take the memory of 'image'"):
        runner({'image': torch.zeros(2, 4)})


@pytest.mark.usefixtures('_cuda')
@pytest.mark.parametrize('name', STANDARD)
def test_tensorrt_graphs_are_captured_by_torch(
    name: str, graphs: dict[str, Path], dynamic: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        BackendError, match=r'cuda_graph=True needs static shapes, but there is image float32 \(image_0'
    ):
        loaded(name, dynamic, cuda_graph=True)
    module, _ = built(name, graphs['attention'], tmp_path / 'e.engine')
    options = LoadOptions(cuda_graph=True)
    with TensorRTRunner(module, 'TensorRT', tmp_path / 'e.engine', torch.device('cpu'), options) as runner:
        tokens = torch.randn(1, 64, 32)
        before = FakeGraph.replays
        first, second = runner({'tokens': tokens}), runner({'tokens': tokens})
    assert FakeGraph.replays == before + 2
    assert module.names().count('IExecutionContext.execute_async_v3') == 2  # the warm-up and the capture
    assert torch.equal(first['mixed'], 2 * tokens)
    assert first['mixed'].data_ptr() != second['mixed'].data_ptr()


@pytest.mark.usefixtures('_cuda')
def test_a_foreign_engine_is_refused_with_the_librarys_words(tmp_path: Path) -> None:
    (tmp_path / 'e.engine').write_bytes(b'not an engine')
    with pytest.raises(BackendError, match=r'e\.engine: TensorRT 10\.0 does not load the engine: Magic tag'):
        TensorRTBackend(FakeModule('tensorrt-10')).load(tmp_path / 'e.engine', 'cuda', require_card=False)


def test_the_recording_is_of_the_installed_module() -> None:
    module = pytest.importorskip('tensorrt_rtx_bindings')
    surface = load_surface('tensorrt_rtx-1.7')
    if module.__version__ != surface['version']:
        pytest.skip(f'recorded from {surface["version"]}, installed is {module.__version__}')
    assert record(module) == surface


def test_the_fake_refuses_what_is_not_recorded() -> None:
    config = FakeModule('tensorrt-11').make('IBuilderConfig')
    with pytest.raises(AttributeError, match=r'IBuilderConfig of 11\.0 has no int8_calibrator'):
        config.int8_calibrator = None
    assert not hasattr(FakeModule('tensorrt-11').BuilderFlag, 'FP16')
