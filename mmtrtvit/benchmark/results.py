"""The one format of all measurements: what a row says, how it is written and read.

A file is one JSON object: ``schema`` (:data:`SCHEMA`), ``schema_version`` (:data:`SCHEMA_VERSION`) and the fields of
:class:`Results`. ``docs/benchmark.md`` lists every field. A reader refuses what it does not know: a number whose
meaning has changed is worse than none.
"""

from __future__ import annotations

import json
import math
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtrtvit.errors import UserError
from mmtrtvit.fileio import atomic_write_json

__all__ = ['SCHEMA', 'SCHEMA_VERSION', 'Ratio', 'Results', 'Row', 'Timing', 'read_results', 'write_results']

SCHEMA = 'mmtrtvit-benchmark'
#: Rises when a field is added, goes or changes its meaning.
SCHEMA_VERSION = 1

#: A row whose 10th and 90th percentile lie further apart than this share of the median is called noisy.
NOISY_SPREAD = 0.15


@dataclass(frozen=True)
class Timing:
    """Latencies of one call, in ms.

    Attributes:
        median_ms: Half of the calls were faster.
        p10_ms: A tenth was faster.
        p90_ms: A tenth was slower.
        min_ms: The fastest.
        mean_ms: Of all calls; none is left out.
        calls: How many were timed.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    calls: int

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Timing:
        """Summarise latencies of at least one call."""
        median, p10, p90 = (float(value) for value in np.percentile(values_ms, (50, 10, 90)))
        return cls(median, p10, p90, float(min(values_ms)), float(np.mean(values_ms)), len(values_ms))

    @property
    def spread(self) -> float:
        """Distance of the 10th and 90th percentile, as a share of the median."""
        return (self.p90_ms - self.p10_ms) / self.median_ms

    @property
    def is_noisy(self) -> bool:
        """Whether the spread is beyond ``NOISY_SPREAD``."""
        return self.spread > NOISY_SPREAD


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a baseline, from pairs of one round: what disturbs a round disturbs both.

    Attributes:
        baseline: The model it is compared with.
        median: Of the rounds: the baseline's latency over this row's.
        p10: A tenth of the rounds gave less.
        p90: A tenth gave more.
        rounds: How many pairs.
    """

    baseline: str
    median: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, baseline: str, base_ms: Iterable[float], own_ms: Iterable[float]) -> Ratio:
        """Compare latencies round by round."""
        values = [base / own for base, own in zip(base_ms, own_ms, strict=False)]
        median, p10, p90 = (float(value) for value in np.percentile(values, (50, 10, 90)))
        return cls(baseline, median, p10, p90, len(values))


@dataclass
class Row:
    """One model, part, backend, precision and shape.

    Attributes:
        model: Its name: of a config without folder and suffix, of a block its kind.
        config: The config file, one of ours as ``configs/...``; or ''.
        backbone: The backbone's name, the key of the published figures: ``trtvit-c``, ``twins-svt-s``; '' if unknown.
        task: ``detection``, ``instance-segmentation``, ``segmentation``, ``classification``, or ``block``.
        part: ``backbone``, ``network`` (backbone, neck and the convolutions of the first head), ``end2end``, or
            ``block`` (a stack of one kind of block).
        backend: As :func:`mmtrtvit.deploy.backends.backend_names` has it.
        backend_version: Of its library.
        device: ``cpu`` or ``cuda:0``.
        precision: What was asked for: ``fp32``, ``fp16``, ``int8``.
        input_shape: Of the input tensor, ``(B, 3, H, W)``; of a block, of its feature map ``(B, C, H, W)``.
        inside: What happens between start and stop of the clock.
        precision_obtained: The precision of most convolutions and matrix products; '' where nothing tells.
        precision_share: Their share in the asked precision, 0 to 1.
        threads: CPU threads asked for; None for the backend's choice.
        weights: ``random``, or the sha256 of the checkpoint.
        wall: Wall time of a call, until its outputs are there.
        device_time: Time on the GPU between two CUDA events around the call, launching included where the GPU waits
            for it; None on the CPU.
        rounds_ms: Median of each round, in the order of the rounds: device time on a GPU, else wall time.
        images_per_second: Batch over the median wall time.
        ratio: Compared with the baseline of the run; None for the baseline itself or without one.
        params: Parameters of the part.
        gflops: Multiply-adds of one image through the part, in 1e9; None where the counter has no answer.
        nodes: ONNX nodes.
        layers: Layers that the backend's builder saw; of ONNX Runtime and PyTorch None.
        engine_bytes: Size of the engine file.
        peak_memory_mib: See ``memory``.
        memory: What ``peak_memory_mib`` is.
        build_seconds: From the config to the loaded engine.
        breakdown: ms by part of a detector, from the backend's own profiler: ``backbone``, ``neck``, ``heads``,
            ``mask head``, ``NMS`` (decoding, top-k, suppression), ``RoIAlign``, ``masks``, ``other``.
        noise: Why the row is to be taken with care; '' for a calm one.
        error: Why there is no measurement; '' where there is one.
        extra: What a tool adds, such as a block's stage and depth.
    """

    model: str
    config: str
    backbone: str
    task: str
    part: str
    backend: str
    backend_version: str
    device: str
    precision: str
    input_shape: list[int]
    inside: str
    precision_obtained: str = ''
    precision_share: float | None = None
    threads: int | None = None
    weights: str = 'random'
    wall: Timing | None = None
    device_time: Timing | None = None
    rounds_ms: list[float] = field(default_factory=list)
    images_per_second: float | None = None
    ratio: Ratio | None = None
    params: int | None = None
    gflops: float | None = None
    nodes: int | None = None
    layers: int | None = None
    engine_bytes: int | None = None
    peak_memory_mib: float | None = None
    memory: str = ''
    build_seconds: float | None = None
    breakdown: dict[str, float] | None = None
    noise: str = ''
    error: str = ''
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells rows of a run apart."""
        return (self.model, *self.setting, json.dumps(self.extra, sort_keys=True))

    @property
    def setting(self) -> tuple[Any, ...]:
        """What must be equal for two models to be compared."""
        return self.part, self.backend, self.device, self.precision, tuple(self.input_shape), self.threads

    @property
    def latency(self) -> Timing | None:
        """The device's time where there is one, else the wall's: what tables and plots show."""
        return self.device_time or self.wall


@dataclass
class Results:
    """One run.

    Attributes:
        command: The command line that repeats it.
        date: Its beginning, UTC, ISO 8601.
        conditions: Hardware, driver, versions, clocks and load before and after: see
            :mod:`mmtrtvit.benchmark.conditions`.
        rounds: Rounds that were asked for; a time limit may have ended them earlier: see ``Row.rounds_ms``.
        warmup: Calls of each model before the first round.
        calls: Timed calls of each model in a round.
        rows: In the order of the run.
        noise: Why the whole run is to be taken with care; empty for a calm one.
        interrupted: Whether Ctrl-C stopped it.
    """

    command: str
    date: str
    conditions: dict[str, Any]
    rounds: int
    warmup: int
    calls: int
    rows: list[Row] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[Row]:
        """The rows without a measurement."""
        return [row for row in self.rows if row.error]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {'schema': SCHEMA, 'schema_version': SCHEMA_VERSION, **asdict(self)}


def write_results(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write a run as JSON, whole or not at all.

    Raises:
        OSError: It could not be written.
    """
    return atomic_write_json(path, results.to_dict())


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a run.

    Raises:
        UserError: The file is not there, is no JSON, or not of this schema; names the file, the field and the way out.
    """
    try:
        values = json.loads(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: cannot be read as JSON: {error}') from error
    if not isinstance(values, dict) or values.pop('schema', None) != SCHEMA:
        raise UserError(f'{path}: no file of results: "schema" is not {SCHEMA!r}; tools/benchmark.py writes them')
    version = values.pop('schema_version', None)
    if version != SCHEMA_VERSION:
        raise UserError(
            f'{path}: schema_version={version!r}, this version of mmtrtvit reads {SCHEMA_VERSION}: measure again, or '
            'read it with the version that wrote it (conditions.versions.mmtrtvit)'
        )
    try:
        results: Results = _read(Results, values, '')
        for number, row in enumerate(results.rows):
            if len(row.input_shape) != 4 or min(row.input_shape) < 1:
                raise ValueError(f'rows[{number}].input_shape={row.input_shape} is not four sizes of at least 1')
    except (ValueError, OverflowError) as error:
        raise UserError(f'{path}: {error}') from error
    return results


def _read(kind: Any, values: Any, where: str) -> Any:
    """Fill a dataclass, checking names and types all the way down."""
    if not isinstance(values, Mapping):
        raise ValueError(f'{where or "the file"} is not an object but {values!r}')
    known = {entry.name: entry for entry in fields(kind)}
    prefix = f'{where}.' if where else ''
    for name in values:
        if name not in known:
            raise ValueError(f'{prefix}{name} is no field of the schema')
    for name, entry in known.items():
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f'{prefix}{name} is missing')
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f'{prefix}{name}') for name, value in values.items()})


def _number(value: float, where: str) -> float:
    """Check a number: Python reads NaN and Infinity, which are not JSON, and 1e999."""
    if not math.isfinite(value):
        raise ValueError(f'{where}={value!r} is no finite number')
    if re.search(r'_ms(\[\d+\])?$', where) and value <= 0:
        raise ValueError(f'{where}={value!r} is no latency: it must be above 0')
    return value


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if is_dataclass(kind):
        return _read(kind, value, where)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(float(value), where)
    if not isinstance(value, origin) or (isinstance(value, bool) and origin is not bool):
        raise ValueError(f'{where}={value!r} is not of the type {getattr(kind, "__name__", kind)}')
    if origin is list and arguments:
        return [_value(arguments[0], entry, f'{where}[{number}]') for number, entry in enumerate(value)]
    if origin is dict and arguments and arguments[1] is not Any:
        return {name: _value(arguments[1], entry, f'{where}[{name!r}]') for name, entry in value.items()}
    return value
