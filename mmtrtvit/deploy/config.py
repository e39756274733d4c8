"""The deploy config: what a graph, an ONNX file and an engine are to be, read from a file and checked.

Its four dicts carry the names that MMDeploy's users know:

* ``codebase_config``: ``task``, ``part``, ``max_dets``, ``segmentation_output``: what comes out;
* ``onnx_config``: ``height``, ``width``, ``batch_size``, ``image_dtype``, ``opset_version``, ``dynamic_batch``: what
  goes in;
* ``backend_config``: ``type``; ``precision`` and the other fields of
  :class:`mmtrtvit.deploy.backends.options.BuildOptions`; ``load``, those of
  :class:`mmtrtvit.deploy.backends.options.LoadOptions`; ``operators``: the forms of ``nms`` (the fields of
  :class:`mmtrtvit.deploy.ops.nms.NMSOptions`), ``roi_align``,
  ``roi_sampling_ratio``, ``deform_conv``;
* ``calib_config``: how int8 is calibrated (:class:`CalibrationOptions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmtrtvit.apis.config import load_config, resolve_config
from mmtrtvit.apis.errors import UserError, near
from mmtrtvit.deploy.backends import backend_names
from mmtrtvit.deploy.backends.options import BuildOptions, LoadOptions
from mmtrtvit.deploy.exporter import OPSET
from mmtrtvit.deploy.graphs import GraphOptions
from mmtrtvit.deploy.graphs.parts import PARTS
from mmtrtvit.deploy.ops.nms import NMSOptions

TASKS = ('detection', 'instance-segmentation', 'segmentation', 'classification')
_CODEBASE = {'task', 'part', 'max_dets', 'segmentation_output'}
_ONNX = {'height', 'width', 'batch_size', 'image_dtype', 'opset_version', 'dynamic_batch'}
_OPERATORS = {'nms', 'roi_align', 'roi_sampling_ratio', 'deform_conv'}
SECTIONS = ('codebase_config', 'onnx_config', 'backend_config', 'calib_config')


@dataclass(frozen=True)
class CalibrationOptions:
    """How activations get their int8 scales.

    Attributes:
        images: How many images of the data set are run.
        method: ``'entropy'``, ``'percentile'`` or ``'minmax'``, as onnxruntime's quantiser calls them.
        split: Which data set of the model config is read: ``'train'``, ``'val'`` or ``'test'``.
    """

    images: int = 64
    method: str = 'entropy'
    split: str = 'train'

    def __post_init__(self) -> None:
        if not isinstance(self.images, int) or self.images < 1:
            raise ValueError(f'images={self.images!r}: a whole number of at least 1 is needed')
        for name, allowed in (('method', ('entropy', 'percentile', 'minmax')), ('split', ('train', 'val', 'test'))):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)!r} is not one of {", ".join(allowed)}')


@dataclass(frozen=True)
class DeployConfig:
    """A deploy config, checked.

    Attributes:
        name: How the user calls the file.
        task: One of :data:`TASKS`; the model's graph must be of it.
        graph: The canvas, the batch, the forms of NMS and RoIAlign.
        part: ``'end2end'``, or a part to be timed alone: ``'backbone'``, ``'network'``.
        opset: Of the ONNX file.
        dynamic_batch: Whether the batch stays open.
        backend: Name of the backend.
        build: What its builder is asked for; ``build.precision`` is the graph's.
        load: How the engine is run.
        calibration: For int8.
    """

    name: str
    task: str
    graph: GraphOptions
    part: str = 'end2end'
    opset: int = OPSET
    dynamic_batch: bool = False
    backend: str = 'onnxruntime'
    build: BuildOptions = field(default_factory=BuildOptions)
    load: LoadOptions = field(default_factory=LoadOptions)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)


def load_deploy_config(name: str, cfg_options: dict[str, Any] | None = None) -> DeployConfig:
    """Read a deploy config.

    Args:
        name: A path, ``mmtrtvit::deploy/NAME.py``, or a name below the configs that come with mmtrtvit, where the
            folder ``deploy/`` and the suffix may be left out.
        cfg_options: Dotted keys and their values, merged in.

    Raises:
        UserError: The file cannot be read, lacks a section, or a key or value is wrong; names it and what is allowed.
    """
    cfg = load_config(_with_folder(name))
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise UserError(f'--cfg-options for {name}: {error}') from error
    return parse_deploy_config(cfg, name)


def _with_folder(name: str) -> str:
    """A deploy config may be named without its folder and its suffix."""
    if Path(name).is_file() or '/' in name or '::' in name:
        return name
    short = f'deploy/{name}' if name.endswith('.py') else f'deploy/{name}.py'
    try:
        resolve_config(short)
    except UserError:
        return name
    return short


def parse_deploy_config(cfg: Config, name: str) -> DeployConfig:
    """Check a deploy config that is already read; see :func:`load_deploy_config`."""
    if 'model' in cfg and 'codebase_config' not in cfg:
        raise UserError(f'{name} is a model config: the deploy config comes first, then the model config')
    for section in SECTIONS[:3]:
        if section not in cfg:
            raise UserError(
                f'{name} has no {section}: it is no deploy config; those that come along are in configs/deploy'
            )
    for key in cfg:
        if key not in SECTIONS and _looks_like_section(key):
            raise UserError(f'{name}: {key} is no section of a deploy config{near(key, SECTIONS)}')
    codebase, onnx, backend = (_plain(cfg[section], f'{name}: {section}') for section in SECTIONS[:3])
    _known(codebase, _CODEBASE, f'{name}: codebase_config')
    _known(onnx, _ONNX, f'{name}: onnx_config')
    task, kind = codebase.pop('task', None), backend.pop('type', None)
    if task not in TASKS:
        raise UserError(f'{name}: codebase_config.task={task!r} is not one of {", ".join(TASKS)}')
    if kind not in backend_names():
        raise UserError(f'{name}: backend_config.type={kind!r} is not one of {", ".join(backend_names())}')
    part = codebase.pop('part', 'end2end')
    if part not in PARTS:
        raise UserError(f'{name}: codebase_config.part={part!r} is not one of {", ".join(PARTS)}')
    opset, dynamic_batch = onnx.pop('opset_version', OPSET), onnx.pop('dynamic_batch', False)
    if not isinstance(opset, int) or opset < OPSET:
        raise UserError(f'{name}: onnx_config.opset_version={opset!r}: a whole number of at least {OPSET} is needed')
    if not isinstance(dynamic_batch, bool):
        raise UserError(f'{name}: onnx_config.dynamic_batch={dynamic_batch!r} is neither True nor False')
    load, operators = (_plain(backend.pop(key, {}), f'{name}: backend_config.{key}') for key in ('load', 'operators'))
    _known(operators, _OPERATORS, f'{name}: backend_config.operators')
    nms = _make(NMSOptions, operators.pop('nms', {}), f'{name}: backend_config.operators.nms')
    graph = {**codebase, **onnx, **operators, 'nms': nms}
    return DeployConfig(
        name=name,
        task=task,
        graph=_make(GraphOptions, graph, f'{name}: codebase_config, onnx_config and backend_config.operators'),
        part=part,
        opset=opset,
        dynamic_batch=dynamic_batch,
        backend=kind,
        build=_make(BuildOptions, backend, f'{name}: backend_config'),
        load=_make(LoadOptions, load, f'{name}: backend_config.load'),
        calibration=_make(CalibrationOptions, cfg.get('calib_config', {}), f'{name}: calib_config'),
    )


def _looks_like_section(key: str) -> bool:
    """A section misspelt, or one of MMDeploy's that is not here; other variables are the file's own helpers."""
    return key.endswith(('_config', '_cfg')) or bool(near(key, SECTIONS))


def _plain(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f'{where}={value!r} is no dict')
    return dict(value.to_dict() if hasattr(value, 'to_dict') else value)


def _known(values: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            raise UserError(f'{where} has no {key}{near(key, allowed)}; it has {", ".join(sorted(allowed))}')


def _make(kind: Any, values: Any, where: str) -> Any:
    """Build an options dataclass, with errors that name the config's key."""
    values = _plain(values, where)
    _known(values, {entry.name for entry in dataclasses.fields(kind)}, where)
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.name not in values
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f'{where} lacks {", ".join(missing)}')
    try:
        return kind(**values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f'{where}: {str(error).removeprefix(f"{kind.__name__}.")}') from error


def in_config_words(error: Exception) -> str:
    """What a backend says of its options, with the names that they have in a deploy config."""
    return str(error).replace('BuildOptions.', 'backend_config.').replace('LoadOptions.', 'backend_config.load.')
