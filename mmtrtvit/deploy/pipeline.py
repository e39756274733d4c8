"""One model from config and checkpoint to an engine whose outputs were compared with the library's own.

Every step writes its file whole or not at all, the cards and ``deploy.json`` last: a work folder without
``deploy.json`` is one of a deployment that did not end.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

import mmtrtvit
from mmtrtvit.apis.errors import UserError
from mmtrtvit.deploy.backends import (
    Availability,
    BackendError,
    BuildReport,
    EngineCard,
    LoadOptions,
    Runner,
    get_backend,
    read_card,
)
from mmtrtvit.deploy.backends.card import RANDOM_WEIGHTS
from mmtrtvit.deploy.config import DeployConfig, in_config_words
from mmtrtvit.deploy.exporter import ExportReport
from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.base import INPUT
from mmtrtvit.deploy.inference import Postprocess
from mmtrtvit.deploy.parity import TOLERANCES, Parity, compare, library_outputs, other_sampling
from mmtrtvit.deploy.picture import draw_side_by_side
from mmtrtvit.deploy.precision import PrecisionReport
from mmtrtvit.deploy.preprocess import read_image
from mmtrtvit.deploy.steps import Exported, Step, build_engine, export_model, silent
from mmtrtvit.fileio import atomic_write_json, make_folder

ONNX, ENGINE, SUMMARY = 'end2end.onnx', 'end2end.engine', 'deploy.json'
SCHEMA_VERSION = 1


@dataclass
class Deployment:
    """What a deployment made.

    Attributes:
        work_dir: Where the files are.
        card: Of the engine.
        onnx: The graph that the engine was built of.
        engine: The engine; the same file as ``onnx`` with ONNX Runtime.
        export: What the exporter reported.
        build: What the builder reported.
        precision: What the fp16 or int8 pass reported, or None.
        parity: The verdict on each image.
        ran: Backend that computed the outputs, and in brackets why it was a stand-in, if it was.
        pictures: Side by side, one an image.
        seconds: Wall time of each step.
        changed: What the graph computes otherwise than the checkpoint's model, one sentence each.
    """

    work_dir: Path
    card: EngineCard
    onnx: Path
    engine: Path
    export: ExportReport
    build: BuildReport
    precision: PrecisionReport | None
    parity: dict[str, Parity]
    ran: str
    pictures: list[Path]
    seconds: dict[str, float] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    @property
    def random_weights(self) -> bool:
        """Whether there was no checkpoint."""
        return self.card.checkpoint == RANDOM_WEIGHTS

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
    check_options(deploy_cfg, device if available.can_run else None)
    for image in images:
        read_image(image)  # a wrong one shows before minutes of work

    def begin_to_write() -> None:  # what fails before leaves an earlier deployment whole
        make_folder(work_dir)
        (work_dir / SUMMARY).unlink(missing_ok=True)

    made = export_model(
        deploy_cfg, model_cfg, checkpoint, work_dir / ONNX, command=command, step=clock, before_writing=begin_to_write
    )
    engine, options = work_dir / ONNX, deploy_cfg.build
    if backend.engine_suffix != '.onnx':
        engine = work_dir / ENGINE
    with clock(f'building with {backend.name}') as progress:
        built = build_engine(made.path, engine, backend.name, options, command=command, progress=progress)
    with clock('comparing with the library'):
        runner, ran = _runner(backend.name, available, engine, made, device, deploy_cfg.load)
        with runner:
            parity, pictures = _compare_and_draw(made, runner, ran.split(' (')[0], images, deploy_cfg, work_dir)
    done = Deployment(
        work_dir=work_dir,
        card=read_card(engine),
        onnx=made.path,
        engine=engine,
        export=made.report,
        build=built,
        precision=made.lowered,
        parity=parity,
        ran=ran,
        pictures=pictures,
        seconds=clock.seconds,
        changed=_changes(made),
    )
    atomic_write_json(work_dir / SUMMARY, summary_of(done, deploy_cfg))
    return done


def check_options(deploy_cfg: DeployConfig, device: str | None) -> None:
    """Refuse before minutes of export what the backend would refuse after it.

    Args:
        deploy_cfg: The deploy config.
        device: Where the engine is to run; None where it will not.

    Raises:
        UserError: Names the option or the device and the way out.
    """
    backend, name, build = get_backend(deploy_cfg.backend), deploy_cfg.name, deploy_cfg.build
    try:
        backend.check_build(build)
        if device is not None:
            backend.check_load(deploy_cfg.load, _device_of(backend.name, device))
    except BackendError as error:
        raise UserError(f'{name}: {in_config_words(error)}') from error
    bounded = build.batch is not None or bool(build.shapes)
    if deploy_cfg.dynamic_batch and not bounded and 'batch' in backend.build_fields:
        raise UserError(
            f'{name}: onnx_config.dynamic_batch=True: {backend.name} needs the bounds of the batch: set '
            'backend_config.batch, such as batch=(1, 4, 8): least, usual, largest'
        )
    if bounded and not deploy_cfg.dynamic_batch:
        what = 'batch' if build.batch is not None else 'shapes'
        raise UserError(
            f'{name}: backend_config.{what}={getattr(build, what)}: the graph has a fixed batch: set '
            f'onnx_config.dynamic_batch=True or leave {what} out'
        )


def _device_of(backend: str, device: str) -> str:
    return 'cuda:0' if backend.startswith('tensorrt') and device == 'cpu' else device


def _changes(made: Exported) -> list[str]:
    """What the deploy config makes of the model that it was not trained as."""
    ratio = made.graph.options.roi_sampling_ratio
    own = {int(layer.sampling_ratio) for layer in other_sampling(made.model, ratio)}
    return [
        f'RoIAlign takes roi_sampling_ratio={ratio} on both sides, the model was trained with '
        f'{"adaptive sampling" if was == 0 else was}: compare tools/test.py of the checkpoint and of the engine'
        for was in sorted(own)
    ]


def _compare_and_draw(
    made: Exported, runner: Runner, title: str, images: Sequence[str], deploy_cfg: DeployConfig, work_dir: Path
) -> tuple[dict[str, Parity], list[Path]]:
    """Run both sides on each image; return what is between them, and a picture of each that can be drawn."""
    precision, parity, pictures = deploy_cfg.build.precision, {}, []
    threshold = Postprocess.from_card(made.card).mask_threshold
    for file in images:
        canvas = made.letterbox(file)
        feed = _batch(canvas.tensor, made.graph)
        found = {name: value.cpu() for name, value in runner({'image': feed}).items()}
        reference = library_outputs(made.model, made.graph, made.graph.normalize(feed))
        parity[str(file)] = compare(reference, found, TOLERANCES[precision], threshold)
        if deploy_cfg.part != 'end2end':
            continue  # feature maps are no picture
        library = type(made.model).__module__.split('.')[0]
        sides = [(f'{library} (PyTorch)', reference), (f'{title}, {precision}', found)]
        name, number = work_dir / f'{Path(file).stem}_{precision}.png', 2
        while name in pictures:  # of another folder, or of another suffix
            name, number = work_dir / f'{Path(file).stem}_{number}_{precision}.png', number + 1
        pictures.append(draw_side_by_side(name, canvas.picture, sides, made.card.classes))
    return parity, pictures


def summary_of(made: Deployment, deploy_cfg: DeployConfig) -> dict[str, Any]:
    """Return what ``deploy.json`` holds."""
    precision = None
    if made.precision is not None:
        precision = made.precision.to_dict()
    return {
        'schema_version': SCHEMA_VERSION,
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'versions': {'mmtrtvit': mmtrtvit.__version__, 'torch': torch.__version__, 'python': platform.python_version()},
        **{
            key: getattr(made.card, key)
            for key in ('command', 'model', 'config', 'deploy_config', 'checkpoint', 'checkpoint_sha256')
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
        'changed': made.changed,
        'tolerance': asdict(TOLERANCES[deploy_cfg.build.precision]),
        'parity': {file: verdict.to_dict() for file, verdict in made.parity.items()},
        'passed': made.passed,
        'seconds': {title: round(seconds, 2) for title, seconds in made.seconds.items()},
    }


def _runner(name: str, available: Availability, engine: Path, made: Exported, device: str, load: LoadOptions) -> Any:
    """Load the engine, or, where it cannot run here, the graph that it was built of."""
    if available.can_run:
        device = _device_of(name, device)
        if not available.doubt:
            return get_backend(name).load(engine, device, options=load), name
        try:
            runner = get_backend(name).load(engine, device, options=load)
            runner({INPUT: made.graph.example_input()})  # some refuse only what they are to run
            return runner, name
        except Exception as error:  # whatever a library says on a GPU that it does not list
            available = replace(available, no_run=f'{available.doubt}: {error}')
    reason = available.no_run.rstrip('.')
    return get_backend('onnxruntime').load(made.path), f'onnxruntime (the {name} engine was not run: {reason})'


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
