"""A model, part, backend, precision and shape made ready to be timed."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.model import NO_CHECKPOINT, build_model
from mmtrtvit.benchmark.breakdown import breakdown, scopes_of
from mmtrtvit.benchmark.models import Model, deploy_task
from mmtrtvit.benchmark.results import Row
from mmtrtvit.benchmark.timing import Sample, stopwatch
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.backends import Backend, BackendError, BuildReport, Runner, get_backend
from mmtrtvit.deploy.config import DeployConfig, load_deploy_config
from mmtrtvit.deploy.exporter import export
from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.base import INPUT, Float32Island
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.deploy.precision import to_fp16, to_int8
from mmtrtvit.deploy.steps import checkpoint_sha256

__all__ = [
    'MODULE_BACKENDS',
    'Job',
    'Placing',
    'Subject',
    'choose_device',
    'new_row',
    'note_build',
    'prepare',
    'wrap_module',
]

#: Backends that run the module itself, without an engine file.
MODULE_BACKENDS = ('pytorch', 'torch-compile', 'cudagraph')
#: Calls over which a backend's profiler averages for the breakdown: the first few of a new session touch fresh memory,
#: which in a detector doubles what RoIAlign seems to take.
PROFILED_CALLS = 8

Step = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """What is to be measured.

    Attributes:
        model: The model.
        part: One of :data:`mmtrtvit.deploy.graphs.parts.PARTS`.
        backend: One of :func:`mmtrtvit.deploy.backends.backend_names`.
        precision: ``fp32``, ``fp16`` or ``int8``.
        shape: Height and width of the canvas, pixels.
        batch: Images a call.
        device: ``cpu`` or ``cuda:0``.
        threads: CPU threads; None for the backend's choice.
        copies: Whether copying in and out of the GPU is timed too.
        checkpoint: Weights, or ``'none'`` for random ones.
    """

    model: Model
    part: str
    backend: str
    precision: str
    shape: tuple[int, int]
    batch: int = 1
    device: str = 'cpu'
    threads: int | None = None
    copies: bool = False
    checkpoint: str = NO_CHECKPOINT

    def __str__(self) -> str:
        return f'{self.model.name} {self.part} {self.backend} {self.precision}'


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


def new_row(job: Job) -> Row:
    """The row of a job before anything is known but what was asked for."""
    height, width = job.shape
    return Row(
        model=job.model.name,
        config=_shown(Path(str(job.model.cfg.filename))),
        backbone=job.model.backbone,
        task=deploy_task(job.model.cfg).replace('instance-seg', 'instance-segmentation'),
        part=job.part,
        backend=job.backend,
        backend_version=get_backend(job.backend).availability().version,
        device=job.device,
        precision=job.precision,
        input_shape=[job.batch, 3, height, width],
        inside=_inside(job),
        threads=job.threads,
        weights='random' if job.checkpoint == NO_CHECKPOINT else checkpoint_sha256(job.checkpoint) or job.checkpoint,
    )


def _shown(config: Path) -> str:
    """A config of ours by its place below ``configs/``, whatever folder that lies in here; another one as it is."""
    if config.is_relative_to(CONFIG_ROOT):
        return f'configs/{config.relative_to(CONFIG_ROOT).as_posix()}'
    return str(config)


def _inside(job: Job) -> str:
    what = {
        'backbone': 'from the normalised image to the feature maps',
        'network': 'from the normalised image to the raw outputs of the first head (backbone, neck, head)',
        'end2end': 'from the normalised image to the final tensors (boxes, scores, labels, masks before pasting; label '
        'map; class scores)',
    }[job.part]
    if job.device == 'cpu':
        where = 'input and outputs in the memory of the host'
    elif job.copies:
        where = 'the input copied from the host, the outputs copied back to it'
    else:
        where = 'input and outputs on the GPU, nothing copied'
    return f'{what}; {where}; no reading, resizing or pasting'


def prepare(job: Job, row: Row, folder: Path, progress: Callable[[str], None] = lambda step: None) -> Subject:
    """Build, export and load; fills the row as far as it gets.

    Args:
        job: What to make.
        row: From :func:`new_row`.
        folder: For the files.
        progress: Called with what begins.

    Raises:
        UserError: The model, the precision or the backend does not go here; says why.
    """
    begin = time.perf_counter()
    backend = get_backend(job.backend)
    options = deploy_config(job)
    progress('building the model')
    model, _ = build_model(job.model.cfg, job.checkpoint)
    with torch.no_grad():
        graph = build_part(model, options.graph, job.part)
        image = graph.example_input()
        row.params = sum(parameter.numel() for parameter in graph.parameters())
        row.gflops = multiply_adds(graph, image) / job.batch / 1e9
    if job.backend in MODULE_BACKENDS:
        load: Callable[[], Runner] = partial(wrap_module, backend, graph, image, job)
        scopes: Callable[[], dict[str, str]] = dict
    else:
        progress('exporting')
        onnx = _export(graph, folder, job, image)
        progress(f'building with {job.backend}')
        engine = folder / f'engine{backend.engine_suffix}'
        report = backend.build(onnx, engine, replace(options.build, precision=job.precision))
        note_build(row, report)
        row.build_seconds = time.perf_counter() - begin
        available = backend.availability()
        if not available.can_run:
            raise UserError(f'built, not run: {available.no_run}')
        threads = options.load if job.threads is None else replace(options.load, threads=job.threads)
        wanted = threads if job.backend == 'onnxruntime' else options.load
        load = partial(backend.load, engine, job.device, require_card=False, options=wanted)
        scopes = partial(scopes_of, onnx)
        del model, graph
    progress('loading')
    feed = {INPUT: image.to(job.device)}
    runner = _measure_memory(row, job.device, load, feed)
    row.build_seconds = time.perf_counter() - begin
    call = _with_copies(runner, image, job.device) if job.copies and job.device != 'cpu' else lambda: runner(feed)
    return Subject(row, stopwatch(call, runner.device), lambda: _costs(runner, feed, scopes()), runner.close)


def deploy_config(job: Job) -> DeployConfig:
    """The deploy config that comes along for the task and the backend, at the job's shape, batch and precision."""
    task = deploy_task(job.model.cfg)
    backend = 'tensorrt' if job.backend in MODULE_BACKENDS else job.backend  # the plain static form of the operators
    names = sorted((CONFIG_ROOT / 'deploy').glob(f'{task}_{backend}_static-*.py'))
    if not names:
        raise UserError(f'{job}: no deploy config {task}_{backend}_static-*.py comes with mmtrtvit')
    height, width = job.shape
    changed: dict[str, Any] = {
        'codebase_config.part': job.part,
        'onnx_config.height': height,
        'onnx_config.width': width,
        'onnx_config.batch_size': job.batch,
        'backend_config.precision': job.precision,
        'backend_config.load': dict(check_finite=False),  # a pass over the input that no peer's tool makes
    }
    if _samples_adaptively(job.model.cfg):
        changed['backend_config.operators'] = dict(roi_sampling_ratio=2)
    return load_deploy_config(str(names[0]), changed)


def _samples_adaptively(cfg: Config) -> bool:
    return "'sampling_ratio': 0" in str(dict(cfg.model).get('roi_head', ''))


def multiply_adds(module: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiply-adds of the convolutions and matrix products of one call, attention included."""
    # the counter knows attention as the products that the plain form is made of, not the CPU's fused kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(*inputs)
    return counter.get_total_flops() / 2  # it counts a multiply-add as two


def _export(graph: DeployGraph, folder: Path, job: Job, image: torch.Tensor) -> Path:
    exact = folder / 'fp32.onnx'
    export(graph, exact)
    lowered = folder / f'{job.precision}.onnx'
    if job.precision == 'fp16':
        to_fp16(exact, lowered)
    elif job.precision == 'int8':
        # Latency does not depend on the scales. What is spared at the end of a model, its scores, a part does not have.
        to_int8(exact, lowered, [{INPUT: image.numpy()}], skip_output=job.part == 'end2end')
    return lowered


def note_build(row: Row, report: BuildReport) -> None:
    """Enter what was built."""
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


class Placing(Protocol):
    """What :func:`wrap_module` reads of a job."""

    @property
    def precision(self) -> str:
        """``fp32`` or ``fp16``."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda:0``."""

    @property
    def threads(self) -> int | None:
        """CPU threads; None for PyTorch's choice."""


def wrap_module(backend: Backend, graph: DeployGraph, image: torch.Tensor, job: Placing) -> Runner:
    """Make a runner of a graph for one of :data:`MODULE_BACKENDS`.

    Raises:
        UserError: PyTorch does not have that precision there.
    """
    if job.precision == 'int8':
        raise UserError(f'{job}: PyTorch has no int8 form of the model: take onnxruntime or tensorrt')
    if job.precision == 'fp16' and job.device == 'cpu':
        raise UserError(f'{job}: fp16 in PyTorch is measured on a GPU only: take fp32')
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    module = graph if job.precision == 'fp32' else _Half(graph)
    wrap: Any = backend
    runner: Runner = wrap.wrap(module, {INPUT: image}, graph.output_names, job.device, None)
    runner.check_finite = False
    return runner


def _measure_memory(row: Row, device: str, load: Callable[[], Runner], feed: dict[str, torch.Tensor]) -> Runner:
    """Load and run once, noting what that added."""
    gc.collect()
    if device != 'cpu':
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


def _costs(runner: Runner, feed: dict[str, torch.Tensor], scopes: dict[str, str]) -> dict[str, float] | None:
    try:
        costs = runner.profile(feed, PROFILED_CALLS)
    except BackendError:
        return None
    return breakdown(costs, scopes) or None
