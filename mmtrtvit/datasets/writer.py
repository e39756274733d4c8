"""Writing the data set: COCO's layout and ADE20K's, over the same images, whole or not at all.

::

    OUT/
      shapes.json                          what made it; its presence says that the set is whole
      train2017/000000000001.jpg ...       COCO's layout
      val2017/000000500001.jpg ...
      annotations/instances_train2017.json
      annotations/instances_val2017.json
      images/training/000000000001.jpg ... ADE20K's layout: the same files (hard links where the disk has them)
      images/validation/...
      annotations/training/000000000001.png ...
      annotations/validation/...
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial as partial_function
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmtrtvit.datasets.coco import CATEGORIES, annotation
from mmtrtvit.datasets.paint import paint
from mmtrtvit.datasets.shapes import Instance, arrange, scene_rng
from mmtrtvit.fileio import atomic_dir, atomic_write_json

FORMAT = 1
"""Raise it whenever the same parameters begin to give another data set."""
MANIFEST = 'shapes.json'
COCO_FOLDERS = {'train': 'train2017', 'val': 'val2017'}
ADE_FOLDERS = {'train': 'training', 'val': 'validation'}
FIRST_IMAGE_ID = {'train': 1, 'val': 500_001}
MAX_IMAGES = 500_000
SIZES = (64, 4096)
# JPEG as in COCO and ADE20K, so that the readers' defaults (".jpg") fit; fine enough not to disturb anything, and
# without chroma subsampling, which smears the colours of small shapes. Labels are in JSON and PNG, without loss.
_JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
_BYTES_PER_PIXEL = 1.3  # measured 0.64 with hard links, nearly twice that without


Scene = tuple[dict[str, Any], list[dict[str, Any]]]  # an entry of COCO's images, and its entries of annotations


class DatasetError(RuntimeError):
    """The data set cannot be made as asked; the text says why and what to do."""


@dataclass(frozen=True)
class Parameters:
    """What a data set is made from; equal parameters give equal bytes.

    Attributes:
        seed: 0 or more. Image ``i`` of a split is the same whatever ``train`` and ``val`` are.
        train: Number of training images.
        val: Number of validation images.
        size: Longer side of the images, pixels.

    Raises:
        DatasetError: A value is out of its range.
    """

    seed: int = 0
    train: int = 400
    val: int = 100
    size: int = 256

    def __post_init__(self) -> None:
        limits = {'seed': (0, 2**63 - 1), 'train': (1, MAX_IMAGES), 'val': (1, MAX_IMAGES), 'size': SIZES}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise DatasetError(f'{name}={value} is out of range: choose {low} to {high}')


def generate(
    out_dir: str | os.PathLike[str],
    parameters: Parameters | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> bool:
    """Make the data set at ``out_dir``, unless it is there already.

    Args:
        out_dir: The folder to make. It appears when it is complete, and not before.
        parameters: What to make; None for the defaults.
        overwrite: Whether a generated set that is damaged or was made from other parameters may be replaced. A
            folder that holds anything else is never touched.
        workers: Threads; None for one a core. The result does not depend on it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        True if the set was made now, False if it was there, whole, with the same parameters.

    Raises:
        DatasetError: ``out_dir`` holds something else, or the disk has too little space.
        OSError: The disk is full or not writable; names the path. Nothing is left half-written.
    """
    parameters = parameters or Parameters()
    out = Path(out_dir)
    state = inspect(out, parameters)
    if state is None:
        return False
    if state and not overwrite:
        raise DatasetError(f'{out}: {state}; --overwrite makes it anew, or choose another folder')
    _check_space(out, parameters)
    with atomic_dir(out, replace=bool(state)) as partial:
        _fill(partial, parameters, workers or os.cpu_count() or 1, progress)
    return True


def inspect(out: Path, parameters: Parameters) -> str | None:
    """Compare what is at ``out`` with what is wanted.

    Returns:
        None if the wanted set is there, whole; '' if there is nothing; else what is different, for a message.

    Raises:
        DatasetError: There is something that this module did not make.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return ''
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding='utf-8'))
        made_from, files, digests = manifest['parameters'], manifest['files'], manifest['sha256']
        version = manifest['format']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f'{out} is not empty and not a data set of this generator (no readable {MANIFEST} in it): '
            f'choose another folder, or remove it yourself'
        ) from error
    wanted = asdict(parameters)
    different = [f'{name}={made_from.get(name)} there, {wanted[name]} wanted' for name in wanted]
    different = [text for name, text in zip(wanted, different, strict=True) if made_from.get(name) != wanted[name]]
    if version != FORMAT:
        different.append(f'format {version} there, {FORMAT} wanted')
    if different:
        return 'holds a generated data set with other parameters (' + '; '.join(different) + ')'
    for name, size in files.items():
        if not (out / name).is_file() or (out / name).stat().st_size != size:
            return f'the generated data set is damaged ({name} is missing or has another size)'
    for name, digest in digests.items():
        if _sha256((out / name).read_bytes()) != digest:
            return f'the generated data set is damaged ({name} was changed)'
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_space(out: Path, parameters: Parameters) -> None:
    """Refuse early what would fill the disk; the estimate is generous, but then disks are large."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    needed = int((parameters.train + parameters.val) * parameters.size**2 * _BYTES_PER_PIXEL)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DatasetError(
            f'{out}: the data set may need {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free: '
            f'free some space, choose another folder, or fewer or smaller images'
        )


def _fill(root: Path, parameters: Parameters, workers: int, progress: bool) -> None:
    """Write everything below ``root``, the manifest last."""
    for folder in (*COCO_FOLDERS.values(), 'annotations'):
        (root / folder).mkdir()
    for folder in ADE_FOLDERS.values():
        (root / 'images' / folder).mkdir(parents=True)
        (root / 'annotations' / folder).mkdir()
    counts = {'train': parameters.train, 'val': parameters.val}
    digests = {}
    with _progress_bar(sum(counts.values()), progress) as advance, ThreadPoolExecutor(workers) as pool:
        for split, count in counts.items():
            write = partial_function(_write_scene, root, parameters, split)
            scenes = []
            for scene in _in_order(pool, write, count, window=4 * workers):
                scenes.append(scene)
                advance()
            name = f'annotations/instances_{COCO_FOLDERS[split]}.json'
            path = atomic_write_json(root / name, _instances_file(scenes, split), indent=None)
            digests[name] = _sha256(path.read_bytes())
    files = {
        path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(root.rglob('*')) if path.is_file()
    }
    manifest = {
        'generator': 'python -m mmtrtvit.datasets',
        'format': FORMAT,
        'parameters': asdict(parameters),
        'versions': {'numpy': np.__version__, 'opencv': cv2.__version__},
        'sha256': digests,
        'files': files,
    }
    atomic_write_json(root / MANIFEST, manifest)


def _in_order(pool: Executor, function: Callable[[int], Scene], count: int, window: int) -> Iterator[Scene]:
    """Yield ``function(0)``, ``function(1)``, ... with no more than ``window`` calls under way or waiting.

    An error or Ctrl-C then has little to wait for, however large the set.
    """
    pending: deque[Future[Scene]] = deque()
    try:
        for index in range(count):
            pending.append(pool.submit(function, index))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for task in pending:
            task.cancel()


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Any]:
    """Yield a function to call once an image is written."""
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show, transient=True) as bar:
        task = bar.add_task('Generating images', total=total)
        yield lambda: bar.advance(task)


def _write_scene(root: Path, parameters: Parameters, split: str, index: int) -> Scene:
    """Write one image and its semantic mask; return its entries of COCO's ``images`` and ``annotations``."""
    rng = scene_rng(parameters.seed, split, index)
    layout = arrange(rng, index, parameters.size)
    picture = _encode('.jpg', paint(layout, rng), _JPEG)
    instances = layout.instances()
    image_id = FIRST_IMAGE_ID[split] + index
    name = f'{image_id:012d}'
    coco_file = root / COCO_FOLDERS[split] / f'{name}.jpg'
    coco_file.write_bytes(picture)
    ade_file = root / 'images' / ADE_FOLDERS[split] / coco_file.name
    try:
        ade_file.hardlink_to(coco_file)
    except OSError:  # not every file system has hard links
        ade_file.write_bytes(picture)
    labels = _encode('.png', semantic_mask(instances, layout.height, layout.width), ())
    (root / 'annotations' / ADE_FOLDERS[split] / f'{name}.png').write_bytes(labels)
    image = {
        'id': image_id,
        'license': 1,
        'file_name': coco_file.name,
        'height': layout.height,
        'width': layout.width,
    }
    # At most 100 instances an image, so the ids stay the same however many images there are.
    return image, [annotation(instance, image_id, image_id * 100 + k) for k, instance in enumerate(instances)]


def semantic_mask(instances: list[Instance], height: int, width: int) -> np.ndarray:
    """Return uint8 ``(height, width)`` as in ADE20K: 0 for everything else, class ``i`` as ``i + 1``."""
    labels = np.zeros((height, width), dtype=np.uint8)
    for instance in instances:
        labels[instance.mask] = instance.label + 1
    return labels


def _encode(suffix: str, image: np.ndarray, options: tuple[int, ...]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise DatasetError(f'OpenCV {cv2.__version__} cannot write {suffix} files: reinstall opencv-python')
    return bytes(data)


def _instances_file(scenes: list[Scene], split: str) -> dict[str, Any]:
    """Return the content of a COCO instances file."""
    return {
        'info': {
            'description': f'Generated shapes, {split} split',
            'version': str(FORMAT),
            'year': 2025,
            'contributor': 'mmtrtvit',
            'url': '',
            'date_created': '',  # the same parameters give the same bytes on any day
        },
        'licenses': [{'id': 1, 'name': 'CC0 1.0', 'url': 'https://creativecommons.org/publicdomain/zero/1.0/'}],
        'images': [image for image, _ in scenes],
        'annotations': [entry for _, entries in scenes for entry in entries],
        'categories': CATEGORIES,
    }
