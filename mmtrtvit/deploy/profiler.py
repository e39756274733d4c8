"""Where the time of a deployed model goes: reading, pre-processing, the engine, post-processing; and in the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mmtrtvit.apis.machine import cores, cpu_name, now, versions
from mmtrtvit.deploy.backends import BackendError, LayerCost, get_backend
from mmtrtvit.deploy.backends.card import RANDOM_WEIGHTS
from mmtrtvit.deploy.inference import Classification, Detections, Engine, Segmentation
from mmtrtvit.deploy.preprocess import INPUT, read_image
from mmtrtvit.errors import UserError

__all__ = ['SCHEMA_VERSION', 'Profile', 'Region', 'conditions_of', 'find_images', 'profile']

SCHEMA_VERSION = 1
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
#: Runs over which the backend's own profiler averages.
LAYER_RUNS = 10

_INSIDE = {
    'reading': 'reading the file, decoding to uint8 BGR',
    'pre-processing': 'resizing, colour order, normalising, padding, stacking the batch; on the CPU',
    'upload': 'copying the batch to the GPU, waited for',
    'engine': 'the engine from input to outputs on its device, waited for; in fp16 and int8 with its own casts',
    'post-processing': 'outputs to the CPU; boxes to the image and clipped, masks pasted in full size',
    'all': 'the sum of the above, one iteration at a time',
}
_POST = {
    Segmentation: 'outputs to the CPU; the label map, or the logits and their argmax, in the size of the image',
    Classification: 'outputs to the CPU; the likeliest class',
}


@dataclass(frozen=True)
class Region:
    """One timed part.

    Attributes:
        name: What it is called.
        inside: What happens between start and stop.
        median_ms: Of all iterations, ms a batch.
        p10_ms: A tenth of the iterations was faster.
        p90_ms: A tenth was slower.
        min_ms: The fastest.
        mean_ms: Of all iterations; none is left out.
        images_per_second: Batch size over the median.
        iterations: How many were timed.
    """

    name: str
    inside: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    images_per_second: float
    iterations: int


@dataclass(frozen=True)
class Profile:
    """A measurement with its conditions.

    Attributes:
        conditions: Hardware, versions, engine, precision, shape, batch, threads.
        regions: The timed parts, in order; the last is their sum.
        layers: Of the engine, by falling cost; empty where the backend does not tell.
        detections_per_image: Mean; the cost of pasting masks hangs on it. None for other tasks.
    """

    conditions: dict[str, Any]
    regions: tuple[Region, ...]
    layers: tuple[LayerCost, ...]
    detections_per_image: float | None

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {'schema_version': SCHEMA_VERSION, **asdict(self)}


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f'{path}: {"a file; a folder of images is needed" if path.is_file() else "no such folder"}')
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not images:
        raise UserError(f'{path}: no image in it ({", ".join(SUFFIXES)}; folders below are not searched)')
    return images


def profile(
    engine: Engine,
    images: Sequence[Path],
    *,
    warmup: int = 10,
    iterations: int = 100,
    batch_size: int | None = None,
    threads: int | None = None,
    layers: bool = True,
) -> Profile:
    """Time an engine on images from files.

    Args:
        engine: The loaded engine.
        images: Taken in turn, from the first again when they are used up.
        warmup: Iterations before those that are timed.
        iterations: Iterations that are timed.
        batch_size: Images an iteration; by default the engine's own, 1 where any number goes.
        threads: CPU threads of pre- and post-processing, for the record also of the engine; None for the default.
        layers: Ask the backend for the cost of each layer, which runs the engine some more times.

    Raises:
        UserError: A number is out of its range, or the engine takes another batch.
        ImageError: A file is no image.
        BackendError: The engine failed.
    """
    size = _batch_size(engine, batch_size)
    for name, value, least in (('--warmup', warmup, 0), ('--num-iter', iterations, 1)):
        if value < least:
            raise UserError(f'{name} {value}: at least {least} is needed')
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    load = os.getloadavg()[0]
    spent: dict[str, list[float]] = {}
    found: list[int] = []
    batches = _batches(images, size)
    for number in range(warmup + iterations):
        times, counts = _once(engine, next(batches))
        if number >= warmup:
            found += counts
            for name, milliseconds in (times | {'all': sum(times.values())}).items():
                spent.setdefault(name, []).append(milliseconds)
    costs: list[LayerCost] = []
    if layers:
        canvases = [engine.letterbox(path).tensor for path in next(batches)]
        costs = engine.runner.profile({INPUT: torch.stack(canvases)}, min(LAYER_RUNS, iterations))
    conditions = conditions_of(engine, size, threads) | {
        'images': len(images), 'warmup': warmup, 'iterations': iterations, 'load_average_before': round(load, 2),
    }  # fmt: skip
    inside = _INSIDE | ({'post-processing': _POST[engine.kind]} if engine.kind in _POST else {})
    return Profile(
        conditions,
        tuple(_region(name, inside[name], values, size) for name, values in spent.items()),
        tuple(costs),
        sum(found) / len(found) if found else None,
    )


def _batch_size(engine: Engine, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise UserError(f'--batch-size {wanted}: at least 1 is needed')
    if engine.batch_size is None:
        return wanted or 1
    if wanted not in (None, engine.batch_size):
        raise UserError(
            f'--batch-size {wanted}: {engine.path} takes batches of {engine.batch_size} only: deploy it with '
            f'--cfg-options onnx_config.batch_size={wanted}, or onnx_config.dynamic_batch=True'
        )
    return engine.batch_size


def _batches(images: Sequence[Path], size: int) -> Iterator[list[Path]]:
    position = 0
    while True:
        yield [images[(position + offset) % len(images)] for offset in range(size)]
        position += size


def _once(engine: Engine, paths: Sequence[Path]) -> tuple[dict[str, float], list[int]]:
    """One iteration: milliseconds by region, detections by image."""
    device = engine.runner.device
    clock = _Clock(device)
    images = [read_image(path) for path in paths]
    clock.lap('reading')
    fitted = [engine.letterbox.fit(image) for image in images]
    batch = torch.stack([engine.letterbox.fill(resized) for resized, _ in fitted])
    clock.lap('pre-processing')
    if device.type != 'cpu':
        batch = batch.to(device)
        clock.lap('upload')
    outputs = engine.runner({INPUT: batch})
    clock.lap('engine')
    outputs = {name: value.cpu() for name, value in outputs.items()}
    counts = []
    for row, (_, placement) in enumerate(fitted):
        result = engine.interpret({name: value[row] for name, value in outputs.items()}, placement)
        if isinstance(result, Detections):
            counts.append(len(result.boxes))
            _ = result.masks  # pasted when asked for
        else:
            _ = result.label_map if isinstance(result, Segmentation) else result.label
    clock.lap('post-processing')
    return clock.times, counts


class _Clock:
    """Laps in milliseconds; a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.times[name] = (now - self._last) * 1000
        self._last = now


def _region(name: str, inside: str, values: list[float], size: int) -> Region:
    median, p10, p90 = (float(value) for value in np.percentile(values, (50, 10, 90)))
    return Region(
        name, inside, median, p10, p90, min(values), float(np.mean(values)), 1000 * size / median, len(values)
    )


def conditions_of(engine: Engine, batch_size: int, threads: int | None) -> dict[str, Any]:
    """Everything that a latency means nothing without."""
    card, device = engine.card, engine.runner.device
    gpu = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    capability = '.'.join(map(str, torch.cuda.get_device_capability(device))) if device.type == 'cuda' else ''
    spec = card.inputs[0]
    try:
        version = get_backend(card.backend).availability().version
    except BackendError:
        version = ''
    return {
        'date': now(),
        'engine': engine.path.name,
        'engine_sha256': card.engine_sha256,
        'model': card.model,
        'config': card.config,
        'deploy_config': card.deploy_config,
        'random_weights': card.checkpoint == RANDOM_WEIGHTS,
        'backend': card.backend,
        'backend_version': version,
        'precision': card.precision_obtained,
        'input': f'{spec.name} {spec.dtype}',
        'height': engine.letterbox.height,
        'width': engine.letterbox.width,
        'batch_size': batch_size,
        'device': str(device),
        'gpu': gpu,
        'compute_capability': capability,
        'cpu': cpu_name(),
        'cores': cores(),
        'threads': threads or 'default',
        'versions': versions(),
    }  # fmt: skip
