"""A model of a config, or a part of it, to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmtrtvit.apis.model import NO_CHECKPOINT, build_model
from mmtrtvit.benchmark.models import Model, deploy_task
from mmtrtvit.benchmark.results import Row
from mmtrtvit.benchmark.run import Entry
from mmtrtvit.benchmark.subjects import Setting, Step, Subject, deploy_config, make_subject
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.config import DeployConfig
from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.deploy.steps import checkpoint_sha256

__all__ = ['Job', 'new_row', 'options', 'prepare']


@dataclass(frozen=True)
class Job:
    """What is to be measured.

    Attributes:
        model: The model.
        part: One of :data:`mmtrtvit.deploy.graphs.parts.PARTS`.
        setting: How; its shape is that of the canvas.
        checkpoint: Weights, or ``'none'`` for random ones.
    """

    model: Model
    part: str
    setting: Setting
    checkpoint: str = NO_CHECKPOINT

    def __str__(self) -> str:
        return f'{self.model.name} {self.part} {self.setting}'

    def entry(self) -> Entry:
        """Itself as what a run measures."""
        row = new_row(self)
        return Entry(str(self), row, partial(prepare, self, row))


def new_row(job: Job) -> Row:
    """The row of a job before anything is known but what was asked for."""
    height, width = job.setting.shape
    return job.setting.new_row(
        model=job.model.name,
        config=_shown(Path(str(job.model.cfg.filename))),
        backbone=job.model.backbone,
        task=deploy_task(job.model.cfg).replace('instance-seg', 'instance-segmentation'),
        part=job.part,
        input_shape=[job.setting.batch, 3, height, width],
        inside=_inside(job),
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
    if job.setting.device == 'cpu':
        where = 'input and outputs in the memory of the host'
    elif job.setting.copies:
        where = 'the input copied from the host, the outputs copied back to it'
    else:
        where = 'input and outputs on the GPU, nothing copied'
    if job.setting.cuda_graph:
        where += ', launched as one CUDA graph'
    return f'{what}; {where}; no reading, resizing or pasting'


def options(job: Job) -> DeployConfig:
    """The deploy config that comes along for the task and the backend, at the job's shape and batch."""
    setting, cfg = job.setting, job.model.cfg
    height, width = setting.shape
    changed: dict[str, Any] = {
        'codebase_config.part': job.part,
        'onnx_config.height': height,
        'onnx_config.width': width,
        'onnx_config.batch_size': setting.batch,
    }
    if _samples_adaptively(cfg):
        changed['backend_config.operators'] = dict(roi_sampling_ratio=2)
    return deploy_config(deploy_task(cfg), setting, changed)


def prepare(job: Job, row: Row, folder: Path, progress: Step = lambda step: None) -> Subject:
    """Build, export and load; fills the row as far as it gets.

    Args:
        job: What to make.
        row: From :func:`new_row`.
        folder: For the files.
        progress: Called with what begins.

    Raises:
        UserError: The model, the precision or the backend does not go here; says why.
    """
    deploy = options(job)

    def make_graph() -> DeployGraph:
        model, _ = build_model(job.model.cfg, job.checkpoint)
        return build_part(model, deploy.graph, job.part)

    return make_subject(make_graph, job.setting, deploy, row, folder, progress)


def _samples_adaptively(cfg: Config) -> bool:
    return "'sampling_ratio': 0" in str(dict(cfg.model).get('roi_head', ''))
