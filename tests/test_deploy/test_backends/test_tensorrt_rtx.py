"""TensorRT-RTX for real: it builds with no GPU and no driver. Running its engines needs a GPU and is not tried."""

from __future__ import annotations

import _thread
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mmtrtvit.deploy.backends import Backend, BackendError, BuildOptions, LoadOptions, get_backend, sha256_of
from mmtrtvit.deploy.backends.check_graphs import PROBES, make_probe

pytest.importorskip('tensorrt_rtx_bindings')
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='says what is missing where there is no GPU')


@pytest.fixture
def backend() -> Backend:
    return get_backend('tensorrt-rtx')


@pytest.mark.parametrize('name', PROBES)
def test_everything_a_detector_needs_builds(name: str, backend: Backend, tmp_path: Path) -> None:
    source = make_probe(name, tmp_path / 'graph.onnx')
    engine = tmp_path / 'graph.engine'
    report = backend.build(source, engine)
    graph = onnx.load_model(str(source)).graph
    assert [spec.name for spec in report.inputs] == [value.name for value in graph.input]
    assert [spec.name for spec in report.outputs] == [value.name for value in graph.output]
    for spec, value in zip((*report.inputs, *report.outputs), (*graph.input, *graph.output), strict=True):
        assert spec.shape == tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    assert engine.stat().st_size == report.engine_bytes > 10_000
    assert report.precision_obtained in ('fp32', '')
    assert report.precision_share == 1.0
    assert sum(report.layers_by_type.values()) == report.layers
    assert report.trtexec.startswith(f'tensorrt_rtx --onnx={source} --saveEngine={engine} ')


@pytest.mark.parametrize(('name', 'products'), [('convolution', 3), ('attention', 5)])
def test_fp16_is_got(name: str, products: int, graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    options = BuildOptions(precision='fp16')
    report = backend.build(graphs[f'{name} fp16'], tmp_path / 'e.engine', options)
    assert (report.precision_obtained, report.precision_share) == ('fp16', 1.0)
    assert report.precision_source == ('network' if not torch.cuda.is_available() else report.precision_source)
    assert report.layers_by_precision['fp16'] >= products
    assert [spec.dtype for spec in (*report.inputs, *report.outputs)] == ['float32', 'float32']
    with pytest.raises(BackendError, match='fp16 was asked of tensorrt-rtx, but the graph has 0%'):
        backend.build(graphs[name], tmp_path / 'f.engine', options)
    assert not (tmp_path / 'f.engine').exists()


def test_int8_is_got(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    report = backend.build(graphs['convolution int8'], tmp_path / 'e.engine', BuildOptions(precision='int8'))
    assert (report.precision_obtained, report.precision_share) == ('int8', 1.0)
    assert report.layers_by_precision['int8'] == report.layers_by_type['CONVOLUTION'] == 3


def test_options_of_the_builder(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    portable = backend.build(graphs['convolution'], tmp_path / 'a.engine')
    options = BuildOptions(
        compute_capabilities=('8.6',), optimization_level=3, workspace_mib=256, profiling='none', tf32=False
    )
    report = backend.build(graphs['convolution'], tmp_path / 'b.engine', options)
    assert sha256_of(tmp_path / 'a.engine') != sha256_of(tmp_path / 'b.engine')
    assert '--computeCapabilities=8.6 --noTF32 --profilingVerbosity=none' in report.trtexec
    assert portable.layers == report.layers


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(timing_cache='x.cache'),
            r'timing_cache=.*TensorRT-RTX measures nothing while it builds and has no timing',
        ),
        (dict(hardware_compatible='ampere_plus'), r'a TensorRT-RTX engine is portable already'),
        (dict(compute_capabilities=('9.0',)), r"compute_capabilities='9\.0': must be of 7\.5, 8\.0, .*12\.0"),
        (dict(max_aux_streams=1), 'tensorrt-rtx has no such option'),
        (dict(batch=(1, 2, 4)), 'has no dynamic input: leave it out'),
        (dict(shapes={'mask': ((1,), (1,), (1,))}), r"shapes\['mask'\]: .* has no dynamic input of that name"),
        (dict(workspace_mib=1), r'workspace limit.*give more in BuildOptions\.workspace_mib'),
    ],
)
def test_refused_options(
    options: dict[str, Any], message: str, graphs: dict[str, Path], backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=message):
        backend.build(graphs['attention'], tmp_path / 'e.engine', BuildOptions(**options))
    assert list(tmp_path.iterdir()) == []


def save(path: Path, node: onnx.NodeProto, shapes: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> Path:
    def value(name: str, shape: Any) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if name.startswith('i') else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape)

    initializers = [numpy_helper.from_array(torch.tensor(values).numpy(), name) for name, values in constants.items()]
    inputs, results = ([value(*item) for item in group.items()] for group in (shapes, outputs))
    graph = helper.make_graph([node], 'g', inputs, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=10)
    onnx.save_model(model, str(path))
    return path


def test_what_it_lacks_is_named_with_the_way_out(backend: Backend, tmp_path: Path) -> None:
    cases = (
        (helper.make_node('TopK', ['x', 'k'], ['v', 'i']), {'x': [1, 5000]}, {'v': [1, 3841], 'i': [1, 3841]},
         {'k': [3841]}, r'3840\)?.*TopK: K may be 3840 at most'),
        (helper.make_node('NonZero', ['x'], ['i']), {'x': [1, 9]}, {'i': [2, None]},
         {}, r'NonZero: its output has no fixed'),
        (helper.make_node('NonMaxSuppression', ['b', 's', 'm'], ['i']), {'b': [1, 9, 4], 's': [1, 1, 9]},
         {'i': [None, 3]}, {'m': [5]}, r"NonMaxSuppression: export with nms form 'static'"),
    )  # fmt: skip
    for node, shapes, outputs, constants, message in cases:
        source = save(tmp_path / 'graph.onnx', node, shapes, outputs, **constants)
        with pytest.raises(BackendError, match=rf'graph\.onnx: TensorRT-RTX .* cannot (parse|build).*{message}'):
            backend.build(source, tmp_path / 'e.engine')
        assert not (tmp_path / 'e.engine').exists()


def test_dynamic_batch(backend: Backend, tmp_path: Path) -> None:
    source = save(tmp_path / 'g.onnx', helper.make_node('Relu', ['x'], ['y']), {'x': ['N', 8]}, {'y': ['N', 8]})
    with pytest.raises(BackendError, match=r"input 'x' has the dynamic shape \(-1, 8\): give its bounds in Build"):
        backend.build(source, tmp_path / 'e.engine')
    report = backend.build(source, tmp_path / 'e.engine', BuildOptions(batch=(1, 2, 4)))
    assert report.inputs[0].shape == ('N', 8)
    assert '--minShapes=x:1x8 --optShapes=x:2x8 --maxShapes=x:4x8' in report.trtexec
    again = backend.build(source, tmp_path / 'e.engine', BuildOptions(shapes={'x': ((1, 8), (2, 8), (4, 8))}))
    assert again.trtexec == report.trtexec
    with pytest.raises(BackendError, match=r"shapes\['x'\]: .* has the shape \(-1, 8\), -1 being free"):
        backend.build(source, tmp_path / 'e.engine', BuildOptions(shapes={'x': ((1, 9), (2, 9), (4, 9))}))


def test_progress_is_told(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    backend.build(graphs['convolution'], tmp_path / 'e.engine', progress=lambda *step: steps.append(step))
    assert len({phase for phase, _, _ in steps}) > 3
    assert all(0 <= step <= total for _, step, total in steps)
    assert steps[0][1] == 0
    assert steps[-1][1] == steps[-1][2]


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """A background job of a script has SIGINT ignored, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('_heeds_ctrl_c')
def test_ctrl_c_cancels_and_leaves_what_was_there(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    engine = tmp_path / 'e.engine'
    engine.write_bytes(b'the old one')
    seen: list[str] = []

    def interrupt(phase: str, step: int, steps: int) -> None:
        seen.append(phase)
        if len(seen) == 3:
            _thread.interrupt_main()
            time.sleep(3)  # the main thread takes note while the build waits here

    with pytest.raises(KeyboardInterrupt):
        backend.build(graphs['attention'], engine, progress=interrupt)
    assert len(seen) < 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'e.engine': b'the old one'}
    backend.build(graphs['attention'], engine)  # the library is still fit for use


def test_an_error_of_the_callback_cancels_and_comes_through(
    graphs: dict[str, Path], backend: Backend, tmp_path: Path
) -> None:
    def broken(phase: str, step: int, steps: int) -> None:
        raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError):
        backend.build(graphs['attention'], tmp_path / 'e.engine', progress=broken)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(
    graphs: dict[str, Path], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / 'e.engine'

    def full(self: Path, data: Any) -> int:
        with self.open('wb') as file:
            file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match=r'cannot write .*e\.engine: No space left on device; the disk is full'):
        backend.build(graphs['convolution'], engine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_while_building_leaves_nothing_that_looks_whole(graphs: dict[str, Path], tmp_path: Path) -> None:
    code = (
        'import sys, os, signal\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from mmtrtvit.deploy.backends import get_backend\n'
        'seen = []\n'
        'def progress(*step):\n'
        '    seen.append(step)\n'
        '    if len(seen) == int(sys.argv[3]): os.kill(os.getpid(), int(sys.argv[4]))\n'
        "get_backend('tensorrt-rtx').build(sys.argv[1], sys.argv[2], progress=progress)\n"
    )
    engine = tmp_path / 'out' / 'e.engine'
    for number, how in ((1, signal.SIGKILL), (40, signal.SIGKILL), (5, signal.SIGINT)):
        command = [sys.executable, '-c', code, str(graphs['attention']), str(engine), str(number), str(int(how))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode != 0
        assert not engine.exists()
        assert (how is signal.SIGKILL) or list(engine.parent.iterdir()) == []
    get_backend('tensorrt-rtx').build(graphs['attention'], engine)
    assert [path.name for path in engine.parent.iterdir()] == ['e.engine']  # what the killed ones left is gone too


@needs_no_gpu
def test_without_a_gpu_loading_says_what_is_needed(graphs: dict[str, Path], backend: Backend, tmp_path: Path) -> None:
    engine = tmp_path / 'e.engine'
    backend.build(graphs['convolution'], engine)
    available = backend.availability()
    assert available.can_build
    assert not available.can_run
    with pytest.raises(BackendError, match=r'needs an NVIDIA GPU with its driver.*8\.0, 8\.6, 8\.9, 12\.0 and later'):
        backend.load(engine, require_card=False)
    with pytest.raises(BackendError, match=r'LoadOptions\.threads=2: tensorrt-rtx has no such option'):
        backend.load(engine, require_card=False, options=LoadOptions(threads=2))


@pytest.mark.parametrize(('capability', 'runs', 'doubt'), [
    ((7, 5), False, False), ((8, 0), True, False), ((8, 9), True, False), ((9, 0), True, True), ((12, 0), True, False),
])  # fmt: skip
def test_a_gpu_that_is_not_listed(
    capability: tuple[int, int], runs: bool, doubt: bool, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    available = backend.availability()
    assert available.can_run is runs
    assert bool(available.doubt) is doubt
    if available.no_run or available.doubt:
        said = rf'a GPU has compute capability {capability[0]}\.{capability[1]}, TensorRT-RTX: it lists .*8\.0, 8\.6'
        assert re.search(said, available.no_run or available.doubt)


def test_without_the_library_the_message_names_the_extra(
    graphs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmtrtvit.deploy.backends import tensorrt

    monkeypatch.setattr(tensorrt, '_find_module', lambda names: (None, ''))
    for name, extra in (('tensorrt-rtx', 'rtx'), ('tensorrt', 'tensorrt')):
        with pytest.raises(BackendError, match=rf"is not installed: pip install 'mmtrtvit\[{extra}\]'"):
            get_backend(name).build(graphs['convolution'], tmp_path / 'e.engine')
    monkeypatch.setattr(tensorrt, '_find_module', lambda names: (None, 'libcuda.so.1: cannot open'))
    with pytest.raises(BackendError, match=r'TensorRT-RTX cannot be imported \(libcuda\.so\.1: cannot open\)'):
        get_backend('tensorrt-rtx').build(graphs['convolution'], tmp_path / 'e.engine')
