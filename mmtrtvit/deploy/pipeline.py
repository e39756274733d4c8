"""One model from config and checkpoint to an engine whose outputs were compared with the library's own.

Every step writes its file whole or not at all, the cards and ``deploy.json`` last: a work folder without
``deploy.json`` is one of a deployment that did not end.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

import mmtrtvit
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.model import NO_CHECKPOINT, build_model
from mmtrtvit.deploy.backends import (
    Availability,
    BackendError,
    BuildOptions,
    BuildReport,
    EngineCard,
    LoadOptions,
    get_backend,
    sha256_of,
    write_card,
)
from mmtrtvit.deploy.backends.card import RANDOM_WEIGHTS
from mmtrtvit.deploy.calibration import calibration_batches
from mmtrtvit.deploy.config import DeployConfig
from mmtrtvit.deploy.export import ExportReport, export
from mmtrtvit.deploy.graphs import DeployGraph, build_graph
from mmtrtvit.deploy.parity import TOLERANCES, Parity, compare, library_outputs
from mmtrtvit.deploy.picture import draw_side_by_side
from mmtrtvit.deploy.precision import PrecisionReport, to_fp16, to_int8
from mmtrtvit.deploy.preprocess import Letterbox
from mmtrtvit.fileio import atomic_write_json

ONNX, ENGINE, SUMMARY = 'end2end.onnx', 'end2end.engine', 'deploy.json'
SCHEMA_VERSION = 1

Step = Callable[[str], Any]
"""``with step('exporting'):`` around each part of the work."""


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A step that shows nothing; yields what a builder's progress is reported to."""
    yield lambda phase, done, of: None


@dataclass
class Deployment:
    """What a deployment made.

    Attributes:
        work_dir: Where the files are.
        onnx: The graph that the engine was built of.
        engine: The engine; the same file as ``onnx`` with ONNX Runtime.
        export: What the exporter reported.
        build: What the builder reported.
        precision: What the fp16 or int8 pass reported, or None.
        parity: The verdict on each image.
        ran: Backend that computed the outputs, and in brackets why it was a stand-in, if it was.
        pictures: Side by side, one an image.
        seconds: Wall time of each step.
        random_weights: Whether there was no checkpoint.
    """

    work_dir: Path
    onnx: Path
    engine: Path
    export: ExportReport
    build: BuildReport
    precision: PrecisionReport | None
    parity: dict[str, Parity]
    ran: str
    pictures: list[Path]
    seconds: dict[str, float] = field(default_factory=dict)
    random_weights: bool = False

    @property
    def passed(self) -> bool:
        """Whether every image is within the tolerance."""
        return all(verdict.passed for verdict in self.parity.values())


def deploy(
    deploy_cfg: DeployConfig,
    model_cfg: Config,
    checkpoint: str,
    images: Sequence[str],
    work_dir: str | Path,
    *,
    device: str = 'cpu',
    command: str = '',
    step: Step = silent,
) -> Deployment:
    """Export, build, run, compare, draw, describe.

    Args:
        deploy_cfg: From :func:`mmtrtvit.deploy.config.load_deploy_config`.
        model_cfg: A model config of mmdet, mmseg or mmpretrain.
        checkpoint: A file or URL, or ``'none'`` for random weights.
        images: Files that both sides are run on.
        work_dir: Where ``end2end.onnx``, ``end2end.engine``, their cards, the pictures and ``deploy.json`` go.
        device: Where the engine runs: ``'cpu'`` or ``'cuda:0'``.
        command: The command line, for the record.
        step: A context manager around each part of the work; takes its title.

    Raises:
        UserError: An image or checkpoint is not there, or the configs do not fit each other.
        UnsupportedModelError: The model has no graph.
        ExportError: torch cannot export it.
        BackendError: The backend cannot build or load it.
        OSError: A file could not be written.
    """
    work_dir = Path(work_dir)
    clock = _Clock(step)
    backend = get_backend(deploy_cfg.backend)
    available = backend.availability()
    if not available.can_build:
        raise BackendError(f'{deploy_cfg.name}: {backend.name} cannot build here: {available.no_build}')
    with clock('building the model'):
        model, classes = build_model(model_cfg, checkpoint)
        graph = build_graph(copy.deepcopy(model), deploy_cfg.graph)
        check_task(graph, deploy_cfg)
        letterbox = Letterbox.from_model(model, deploy_cfg.graph, model_cfg)
        canvases = [letterbox(image) for image in images]
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / SUMMARY).unlink(missing_ok=True)
    exact_onnx = work_dir / (ONNX if deploy_cfg.build.precision == 'fp32' else 'end2end_fp32.onnx')
    with clock('exporting to ONNX'):
        exported = export(graph, exact_onnx, opset=deploy_cfg.opset, dynamic_batch=deploy_cfg.dynamic_batch)
    onnx, lowered = exact_onnx, None
    if deploy_cfg.build.precision != 'fp32':
        with clock(f'lowering the graph to {deploy_cfg.build.precision}') as progress:
            onnx = work_dir / ONNX
            lowered = lower(exact_onnx, onnx, deploy_cfg, model_cfg, letterbox, progress)
    engine = onnx if backend.engine_suffix == '.onnx' else work_dir / ENGINE
    with clock(f'building with {backend.name}') as progress:
        built = backend.build(onnx, engine, deploy_cfg.build, progress)
    base = {
        'model': Path(model_cfg.filename).stem,
        'config': str(model_cfg.filename),
        'deploy_config': deploy_cfg.name,
        'checkpoint': RANDOM_WEIGHTS if checkpoint == NO_CHECKPOINT else str(checkpoint),
        'checkpoint_sha256': RANDOM_WEIGHTS if checkpoint == NO_CHECKPOINT else checkpoint_sha256(checkpoint),
        'normalization': letterbox.to_dict(),
        'classes': classes,
        'command': command,
        'extra': {'task': graph.task, 'options': asdict(deploy_cfg.graph)},
    }
    with clock('describing the engine'):
        write_card(card_of(built, onnx, engine, deploy_cfg.build, base), engine)
        if engine != onnx:  # the graph runs by itself too, with ONNX Runtime
            check = get_backend('onnxruntime')
            as_onnx = check.build(onnx, onnx, BuildOptions(precision=deploy_cfg.build.precision))
            write_card(card_of(as_onnx, onnx, onnx, BuildOptions(precision=deploy_cfg.build.precision), base), onnx)
    parity, pictures = {}, []
    with clock('comparing with the library'):
        runner, ran = _runner(backend.name, available, engine, onnx, device, deploy_cfg.load)
        with runner:
            for file, canvas in zip(images, canvases, strict=True):
                feed = _batch(canvas.tensor, graph)
                found = {name: value.cpu() for name, value in runner({'image': feed}).items()}
                reference = library_outputs(model, graph, graph.normalize(feed))
                parity[str(file)] = compare(reference, found, TOLERANCES[deploy_cfg.build.precision])
                sides = [
                    (f'{type(model).__module__.split(".")[0]} (PyTorch)', reference),
                    (f'{ran.split(" (")[0]}, {deploy_cfg.build.precision}', found),
                ]
                name = work_dir / f'{Path(file).stem}_{deploy_cfg.build.precision}.png'
                pictures.append(draw_side_by_side(name, canvas.picture, sides, classes))
    made = Deployment(
        work_dir, onnx, engine, exported, built, lowered, parity, ran, pictures, clock.seconds,
        random_weights=checkpoint == NO_CHECKPOINT,
    )  # fmt: skip
    atomic_write_json(work_dir / SUMMARY, summary_of(made, deploy_cfg, base))
    return made


def lower(
    source: Path,
    target: Path,
    deploy_cfg: DeployConfig,
    model_cfg: Config,
    letterbox: Letterbox,
    progress: Callable[[str, int, int], None],
) -> PrecisionReport:
    """Write the fp16 or int8 form of a graph; return the pass's report."""
    if deploy_cfg.build.precision == 'fp16':
        return to_fp16(source, target, progress=progress)
    batches = calibration_batches(model_cfg, deploy_cfg, letterbox)
    return to_int8(source, target, batches, method=deploy_cfg.calibration.method, progress=progress)


def check_task(graph: DeployGraph, deploy_cfg: DeployConfig) -> None:
    """Refuse a deploy config of another task; a model with masks may be deployed without them only by its config.

    Raises:
        UserError: The tasks differ; names both and the configs to use.
    """
    if graph.task != deploy_cfg.task:
        short = {'instance-segmentation': 'instance-seg'}.get(graph.task, graph.task)
        raise UserError(
            f'{deploy_cfg.name} is for {deploy_cfg.task}, the model does {graph.task}: '
            f'take one of configs/deploy/{short}_*.py'
        )


def checkpoint_sha256(checkpoint: str) -> str:
    """Return the sha256 of a checkpoint file; of a URL, that of what torch keeps of it, else ''."""
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        path = Path(torch.hub.get_dir()) / 'checkpoints' / checkpoint.rsplit('/', 1)[-1]
    return sha256_of(path) if path.is_file() else ''


def card_of(built: BuildReport, onnx: Path, engine: Path, options: BuildOptions, base: dict[str, Any]) -> EngineCard:
    """Return the card of an engine that was just built."""
    extra = base['extra'] | {
        'build_seconds': round(built.seconds, 2),
        'layers': built.layers,
        'layers_by_precision': dict(built.layers_by_precision),
        'float_share': built.float_share,
        'warnings': list(built.warnings),
    }
    return EngineCard(
        **(base | {'extra': extra}),
        onnx=onnx.name,
        onnx_sha256=sha256_of(onnx),
        engine_sha256=sha256_of(engine),
        backend=built.backend,
        backend_version=built.version,
        precision_asked=built.precision_asked,
        precision_obtained=built.precision_obtained,
        precision_share=built.precision_share,
        precision_source=built.precision_source,
        inputs=built.inputs,
        outputs=built.outputs,
        opset=built.opset,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        gpu=built.gpu,
        compute_capability=built.compute_capability,
        compute_capabilities=options.compute_capabilities,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        trtexec=built.trtexec,
    )


def summary_of(made: Deployment, deploy_cfg: DeployConfig, base: dict[str, Any]) -> dict[str, Any]:
    """Return what ``deploy.json`` holds."""
    precision = None
    if made.precision is not None:
        precision = made.precision.to_dict()
    return {
        'schema_version': SCHEMA_VERSION,
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'versions': {'mmtrtvit': mmtrtvit.__version__, 'torch': torch.__version__, 'python': platform.python_version()},
        **{
            key: base[key] for key in ('command', 'model', 'config', 'deploy_config', 'checkpoint', 'checkpoint_sha256')
        },
        'backend': deploy_cfg.backend,
        'precision': deploy_cfg.build.precision,
        'files': {'onnx': made.onnx.name, 'engine': made.engine.name, 'pictures': [p.name for p in made.pictures]},
        'export': asdict(made.export) | {'path': made.export.path.name},
        'precision_pass': precision,
        'build': asdict(made.build)
        | {
            'engine': made.engine.name,
            'inputs': [spec.to_dict() for spec in made.build.inputs],
            'outputs': [spec.to_dict() for spec in made.build.outputs],
        },
        'ran': made.ran,
        'tolerance': asdict(TOLERANCES[deploy_cfg.build.precision]),
        'parity': {file: verdict.to_dict() for file, verdict in made.parity.items()},
        'passed': made.passed,
        'seconds': {title: round(seconds, 2) for title, seconds in made.seconds.items()},
    }


def _runner(name: str, available: Availability, engine: Path, onnx: Path, device: str, load: LoadOptions) -> Any:
    """Load the engine, or, where it cannot run here, the graph that it was built of."""
    if available.can_run:
        device = 'cuda:0' if name.startswith('tensorrt') and device == 'cpu' else device
        return get_backend(name).load(engine, device, options=load), name
    reason = available.no_run.rstrip('.')
    return get_backend('onnxruntime').load(onnx), f'onnxruntime (the {name} engine was not run: {reason})'


def _batch(canvas: Tensor, graph: DeployGraph) -> Tensor:
    """Repeat one canvas to the engine's batch."""
    return canvas[None].expand(graph.options.batch_size, *canvas.shape).contiguous()


class _Clock:
    """Times the steps."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, title: str) -> Iterator[Any]:
        begin = time.perf_counter()
        with self.step(title) as progress:
            yield progress
        self.seconds[title] = time.perf_counter() - begin
