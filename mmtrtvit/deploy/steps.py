"""The two steps that make files, each usable alone: a model to an ONNX graph, a graph to an engine.

Both write a card beside their file, last: a graph or engine without a card is one whose making was interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmtrtvit.apis.config import check_has_model, load_config
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.model import NO_CHECKPOINT, build_model
from mmtrtvit.deploy.backends import (
    BuildOptions,
    BuildReport,
    EngineCard,
    Progress,
    get_backend,
    read_card,
    sha256_of,
    verify_digest,
    write_card,
)
from mmtrtvit.deploy.backends.card import RANDOM_WEIGHTS
from mmtrtvit.deploy.calibration import calibration_batches
from mmtrtvit.deploy.config import DeployConfig, load_deploy_config
from mmtrtvit.deploy.exporter import ExportReport, export
from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.deploy.inference import Postprocess
from mmtrtvit.deploy.precision import PrecisionReport, to_fp16, to_int8
from mmtrtvit.deploy.preprocess import Letterbox
from mmtrtvit.deploy.untrained import settle_norms, without_threshold

Step = Callable[[str], Any]
"""``with step('exporting'):`` around each part of the work."""


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A step that shows nothing; yields what a builder's progress is reported to."""
    yield lambda phase, done, of: None


@dataclass
class Exported:
    """What :func:`export_model` made, and what it made it from.

    Attributes:
        path: The ONNX file, in the precision that was asked for.
        card: What lies beside it.
        report: What the exporter reported.
        lowered: What the fp16 or int8 pass reported, or None.
        model: The untouched model, in eval mode on the CPU.
        graph: The module that was exported.
        letterbox: How images get onto its canvas.
    """

    path: Path
    card: EngineCard
    report: ExportReport
    lowered: PrecisionReport | None
    model: nn.Module
    graph: DeployGraph
    letterbox: Letterbox


def export_model(
    deploy_cfg: DeployConfig | str,
    model_cfg: Config | str,
    checkpoint: str,
    path: str | Path,
    *,
    command: str = '',
    step: Step = silent,
    before_writing: Callable[[], None] | None = None,
) -> Exported:
    """Export a model to an ONNX graph that ONNX Runtime runs and TensorRT builds.

    Args:
        deploy_cfg: A deploy config or its name.
        model_cfg: A model config of mmdet, mmseg or mmpretrain, or its name.
        checkpoint: A file or URL, or ``'none'`` for random weights, made comparable: :mod:`mmtrtvit.deploy.untrained`.
        path: The file to make. In fp16 and int8 the fp32 graph stays beside it as ``<name>_fp32.onnx``.
        command: The command line, for the card.
        step: A context manager around each part of the work; takes its title.
        before_writing: Called when the model was found deployable, before the first file is written.

    Raises:
        UserError: The configs, the checkpoint or the model cannot be deployed; says what to do.
        OSError: A file could not be written.
    """
    deploy_cfg = load_deploy_config(deploy_cfg) if isinstance(deploy_cfg, str) else deploy_cfg
    model_cfg = load_config(model_cfg) if isinstance(model_cfg, str) else model_cfg
    path, precision = Path(path), deploy_cfg.build.precision
    random = checkpoint == NO_CHECKPOINT
    check_has_model(model_cfg)
    with step('building the model'):
        model_cfg = without_threshold(model_cfg) if random else model_cfg
        model, classes = build_model(model_cfg, checkpoint)
        if random:
            canvas = replace(deploy_cfg.graph, image_dtype='float32')
            settle_norms(model, Letterbox.from_model(model, canvas, model_cfg))
        graph = build_part(copy.deepcopy(model), deploy_cfg.graph, deploy_cfg.part)
        check_task(graph, deploy_cfg)
        letterbox = Letterbox.from_model(model, deploy_cfg.graph, model_cfg)
    if before_writing is not None:
        before_writing()
    exact = path if precision == 'fp32' else path.with_name(f'{path.stem}_fp32.onnx')
    with step('exporting to ONNX'):
        report = export(graph, exact, opset=deploy_cfg.opset, dynamic_batch=deploy_cfg.dynamic_batch)
    lowered = None
    if precision != 'fp32':
        with step(f'lowering the graph to {precision}') as progress:
            lowered = lower(exact, path, deploy_cfg, model_cfg, letterbox, progress)
    options = BuildOptions(precision=precision)
    with step('checking the graph with ONNX Runtime'):
        built = get_backend('onnxruntime').build(path, path, options)
    origin = _origin(deploy_cfg, model_cfg, checkpoint)
    origin |= {'normalization': letterbox.to_dict(), 'classes': classes, 'command': command}
    origin['extra']['task'] = graph.task
    card = card_of(built, path, path, options, origin)
    write_card(card, path)
    return Exported(path, card, report, lowered, model, graph, letterbox)


def _origin(deploy_cfg: DeployConfig, model_cfg: Config, checkpoint: str) -> dict[str, Any]:
    """Return what the card of a graph says of the configs and the checkpoint."""
    random = checkpoint == NO_CHECKPOINT
    return {
        'model': Path(model_cfg.filename).stem,
        'config': str(model_cfg.filename),
        'deploy_config': deploy_cfg.name,
        'checkpoint': RANDOM_WEIGHTS if random else str(checkpoint),
        'checkpoint_sha256': RANDOM_WEIGHTS if random else checkpoint_sha256(checkpoint),
        'extra': {
            'options': asdict(deploy_cfg.graph),
            'postprocess': asdict(Postprocess.from_config(model_cfg.model)),
        },
    }


def build_engine(
    onnx: str | Path,
    engine: str | Path,
    backend: str = 'tensorrt-rtx',
    options: BuildOptions | None = None,
    *,
    command: str = '',
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine of an exported graph.

    Args:
        onnx: A file of :func:`export_model`, its card beside it.
        engine: The file to make.
        backend: One of :func:`mmtrtvit.deploy.backends.backend_names`.
        options: How; by default in the precision of the graph.
        command: The command line, for the card.
        progress: Called with phase, step and steps.

    Raises:
        BackendError: The backend cannot build it, or the graph has no card.
        OSError: The file could not be written.
    """
    onnx, engine = Path(onnx), Path(engine)
    card = read_card(onnx)
    verify_digest(onnx, card)
    options = options or BuildOptions(precision=card.precision_asked)
    built = get_backend(backend).build(onnx, engine, options, progress)
    base = {
        name: getattr(card, name)
        for name in (
            'model', 'config', 'deploy_config', 'checkpoint', 'checkpoint_sha256', 'normalization', 'classes', 'extra',
        )
    }  # fmt: skip
    write_card(card_of(built, onnx, engine, options, base | {'command': command or card.command}), engine)
    return built


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
    if deploy_cfg.part == 'end2end' and graph.task != deploy_cfg.task:
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
