"""A graph made an engine, loaded and ready to be timed: the same for whole models and for stacks of blocks."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrtvit.benchmark.breakdown import breakdown, scopes_of
from mmtrtvit.benchmark.results import Row
from mmtrtvit.benchmark.timing import Sample, reason, stopwatch
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.backends import Backend, BackendError, BuildReport, Runner, get_backend
from mmtrtvit.deploy.config import DeployConfig, load_deploy_config
from mmtrtvit.deploy.exporter import export
from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.base import INPUT, Float32Island
from mmtrtvit.deploy.precision import to_fp16, to_int8
from mmtrtvit.errors import UserError

__all__ = [
    'MODULE_BACKENDS',
    'Setting',
    'Step',
    'Subject',
    'choose_device',
    'deploy_config',
    'make_subject',
    'multiply_adds',
]

#: Backends that run the module itself, without an engine file.
MODULE_BACKENDS = ('pytorch', 'torch-compile', 'cudagraph')
#: Calls over which a backend's profiler averages for the breakdown: the first few of a new session touch fresh memory,
#: which in a detector doubles what RoIAlign seems to take.
PROFILED_CALLS = 8

Step = Callable[[str], object]
"""Called with what begins."""


@dataclass(frozen=True)
class Setting:
    """How something is measured.

    Attributes:
        backend: One of :func:`mmtrtvit.deploy.backends.backend_names`.
        precision: ``fp32``, ``fp16`` or ``int8``.
        shape: Height and width of the image, pixels.
        batch: Images a call.
        device: ``cpu`` or ``cuda:0``.
        threads: CPU threads; None for the backend's choice.
        copies: Whether copying in and out of the GPU is timed too.
        cuda_graph: Whether an engine is launched as one CUDA graph (a GPU only).
    """

    backend: str
    precision: str
    shape: tuple[int, int]
    batch: int = 1
    device: str = 'cpu'
    threads: int | None = None
    copies: bool = False
    cuda_graph: bool = False

    def __str__(self) -> str:
        return f'{self.backend} {self.precision}' + (f', batch {self.batch}' if self.batch > 1 else '')

    def new_row(self, **known: Any) -> Row:
        """A row of this setting before anything is measured."""
        return Row(
            backend=self.backend,
            backend_version=get_backend(self.backend).availability().version,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            **known,
        )


@dataclass
class Subject:
    """A loaded engine with what is known of it.

    Attributes:
        row: Everything but the latencies.
        call: Runs once and measures itself.
        costs: Time by part of the model, from the backend's own profiler; None where it does not tell.
        close: Gives the memory back.
    """

    row: Row
    call: Callable[[], Sample]
    costs: Callable[[], dict[str, float] | None]
    close: Callable[[], None]


def choose_device(backend: str) -> str:
    """The device that a backend runs on here: the first GPU where it can, else the CPU."""
    if not torch.cuda.is_available():
        return 'cpu'
    if backend == 'onnxruntime':
        import onnxruntime

        return 'cuda:0' if 'CUDAExecutionProvider' in onnxruntime.get_available_providers() else 'cpu'
    return 'cuda:0'


def deploy_config(task: str, setting: Setting, changed: Mapping[str, Any] | None = None) -> DeployConfig:
    """The static deploy config that comes along for a task and the setting's backend.

    Args:
        task: ``detection``, ``instance-seg``, ``segmentation`` or ``classification``.
        setting: Its backend and precision.
        changed: Dotted key to another value.

    Raises:
        UserError: None comes along.
    """
    backend = 'tensorrt' if setting.backend in MODULE_BACKENDS else setting.backend  # the plain form of the operators
    names = sorted((CONFIG_ROOT / 'deploy').glob(f'{task}_{backend}_static-*.py'))
    if not names:
        raise UserError(f'{setting}: no deploy config {task}_{backend}_static-*.py comes with mmtrtvit')
    values = {
        'backend_config.precision': setting.precision,
        # check_finite: a pass over the input that no peer's tool makes
        'backend_config.load': dict(check_finite=False, cuda_graph=setting.cuda_graph),
    }
    return load_deploy_config(str(names[0]), values | dict(changed or {}))


def make_subject(
    make_graph: Callable[[], DeployGraph],
    setting: Setting,
    options: DeployConfig,
    row: Row,
    folder: Path,
    progress: Step = lambda step: None,
) -> Subject:
    """Build, export and load; fills the row as far as it gets.

    Args:
        make_graph: Builds the graph; nobody else may hold it, for its memory is given back before the engine is built.
        setting: How it is measured.
        options: From :func:`deploy_config`.
        row: Its row.
        folder: For the files, which the subject needs while its costs are asked for.
        progress: Called with what begins.

    Raises:
        UserError: The model, the precision or the backend does not go here; says why.
    """
    begin = time.perf_counter()
    backend = get_backend(setting.backend)
    progress('building the model')
    graph = make_graph()
    with torch.no_grad():
        image = graph.example_input()
        row.params = sum(parameter.numel() for parameter in graph.parameters())
        row.gflops = multiply_adds(graph, image) / setting.batch / 1e9
    if setting.backend in MODULE_BACKENDS:
        load: Callable[[], Runner] = partial(_wrap_module, backend, graph, image, setting)
        scopes: Callable[[], dict[str, str]] = dict
    else:
        progress('exporting')
        onnx = _export(graph, folder, setting.precision, image)
        del graph
        gc.collect()  # the exporter leaves the weights in circles
        progress(f'building with {setting.backend}')
        engine = folder / f'engine{backend.engine_suffix}'
        _note_build(row, backend.build(onnx, engine, replace(options.build, precision=setting.precision)))
        row.build_seconds = time.perf_counter() - begin
        available = backend.availability()
        if not available.can_run:
            raise UserError(f'built, not run: {available.no_run}')
        wanted = options.load
        if setting.backend == 'onnxruntime' and setting.threads is not None:
            wanted = replace(wanted, threads=setting.threads)
        load = partial(backend.load, engine, setting.device, require_card=False, options=wanted)
        scopes = partial(scopes_of, onnx)
    progress('loading')
    feed = {INPUT: image.to(setting.device)}
    runner = _measure_memory(row, setting.device, load, feed)
    row.build_seconds = time.perf_counter() - begin
    copies = setting.copies and setting.device != 'cpu'
    call = _with_copies(runner, image, setting.device) if copies else partial(runner, feed)
    return Subject(row, stopwatch(call, runner.device), lambda: _costs(row, runner, feed, scopes()), runner.close)


def multiply_adds(module: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiply-adds of the convolutions and matrix products of one call, attention included.

    Nothing is computed: at 800x1344 in batches of 8 an attention matrix may not fit the memory that its engine, which
    never writes it out, does with.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # the counter knows attention as the products that the plain form is made of, not the CPU's fused kernel
    with FlopCounterMode(display=False) as counter, fake, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(*(fake.from_tensor(value) for value in inputs))
    return counter.get_total_flops() / 2  # it counts a multiply-add as two


def _export(graph: DeployGraph, folder: Path, precision: str, image: torch.Tensor) -> Path:
    exact, lowered = folder / 'fp32.onnx', folder / f'{precision}.onnx'
    export(graph, exact)
    if precision == 'fp16':
        to_fp16(exact, lowered)
    elif precision == 'int8':
        # Latency does not depend on the scales. What is spared at the end of a model, its scores, a part does not have.
        batches, parts = [{INPUT: image.numpy()}], ('features', 'network')
        to_int8(exact, lowered, batches, 'minmax', skip_output=graph.task not in parts)
    return lowered


def _note_build(row: Row, report: BuildReport) -> None:
    row.nodes = report.onnx_nodes
    row.layers = report.layers if report.precision_source != 'graph' else None
    row.engine_bytes = report.engine_bytes
    row.precision_obtained, row.precision_share = report.precision_obtained, report.precision_share
    row.noise = '; '.join(warning for warning in report.warnings if 'timings' in warning)


class _Half(nn.Module):
    """A graph with its convolutions and matrix products in fp16, as autocast would have it.

    Their weights are converted once, which autocast does anew in every call; what must stay float32
    (:class:`mmtrtvit.deploy.graphs.base.Float32Island`) does.
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        kept = {
            id(module) for island in graph.modules() if isinstance(island, Float32Island) for module in island.modules()
        }
        for module in graph.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and id(module) not in kept:
                module.half()

    def forward(self, image: torch.Tensor) -> Any:
        """Return what the graph does of an image."""
        with torch.autocast(image.device.type, torch.float16):
            return self.graph(image)


def _wrap_module(backend: Backend, graph: DeployGraph, image: torch.Tensor, setting: Setting) -> Runner:
    if setting.precision == 'int8':
        raise UserError(f'{setting}: PyTorch has no int8 form of the model: take onnxruntime or tensorrt')
    if setting.precision == 'fp16' and setting.device == 'cpu':
        raise UserError(f'{setting}: fp16 in PyTorch is measured on a GPU only: take fp32')
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    # fp32 is fp32, as in the engines: convolutions would round to TensorFloat-32 on a GPU, matrix products would not
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    module = graph if setting.precision == 'fp32' else _Half(graph)
    wrap: Any = backend
    runner: Runner = wrap.wrap(module, {INPUT: image}, graph.output_names, setting.device, None)
    runner.check_finite = False
    return runner


def _measure_memory(row: Row, device: str, load: Callable[[], Runner], feed: dict[str, torch.Tensor]) -> Runner:
    """Load and run once, noting what that added."""
    gc.collect()
    if device != 'cpu':
        _wake(device)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before_gpu = torch.cuda.mem_get_info(device)[0]
        runner = load()
        runner(feed)
        torch.cuda.synchronize(device)
        row.peak_memory_mib = max(0, before_gpu - torch.cuda.mem_get_info(device)[0]) / 2**20
        row.memory = 'GPU memory that loading and one call took, by the driver'
        return runner
    before = _reset_peak()
    runner = load()
    runner(feed)
    if before is not None and (peak := _status('VmHWM')) is not None:
        row.peak_memory_mib = max(0.0, peak - before)
        row.memory = "the process's peak resident memory while loading and in one call, over what it had before"
    return runner


@cache
def _wake(device: str) -> None:
    """Let CUDA load its libraries now, or the first model would be charged for memory that all share."""
    for dtype in (torch.float32, torch.float16):
        image, matrix = (torch.zeros(shape, dtype=dtype, device=device) for shape in ((1, 8, 8, 8), (8, 8)))
        nn.functional.conv2d(image, torch.zeros(8, 8, 3, 3, dtype=dtype, device=device))
        _ = matrix @ matrix


def _reset_peak() -> float | None:
    """Give free memory back and forget the peak; return the resident memory now, MiB, or None where Linux is not."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # resets VmHWM: proc(5)
    except (AttributeError, OSError):
        return None
    return _status('VmRSS')


def _status(key: str) -> float | None:
    for line in Path('/proc/self/status').read_text(encoding='utf-8', errors='replace').splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) / 1024
    return None


def _with_copies(runner: Runner, image: torch.Tensor, device: str) -> Callable[[], object]:
    pinned = image.pin_memory()

    def call() -> object:
        outputs = runner({INPUT: pinned.to(device, non_blocking=True)})
        return {name: value.cpu() for name, value in outputs.items()}

    return call


def _costs(row: Row, runner: Runner, feed: dict[str, torch.Tensor], scopes: dict[str, str]) -> dict[str, float] | None:
    """Time by part; None where the backend does not tell, or where asking it failed, which the row then says."""
    try:
        costs = runner.profile(feed, PROFILED_CALLS)
    except BackendError:
        return None
    except Exception as error:  # memory for a second context, a profiler that is taken: the latencies stand without it
        row.noise = '; '.join(filter(None, (row.noise, f'no breakdown: {reason(error)}')))
        return None
    return breakdown(costs, scopes) or None
