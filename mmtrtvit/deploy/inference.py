"""An engine and its card are all that is needed from an image to detections, label maps or classes.

Example:
    >>> from mmtrtvit.deploy import load
    >>> model = load('end2end.onnx')
    >>> for found in model('image.jpg'):
    ...     if found.score > 0.5:
    ...         print(found.name, found.box, int(found.mask.sum()))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtrtvit.deploy.backends import BackendError, EngineCard, LoadOptions, Runner, get_backend, read_card
from mmtrtvit.deploy.preprocess import INPUT, ImageLike, Letterbox, Placement
from mmtrtvit.errors import UserError

__all__ = [
    'Classification',
    'Detection',
    'Detections',
    'Engine',
    'Postprocess',
    'Result',
    'Segmentation',
    'kind_of',
    'load',
]


@dataclass(frozen=True)
class Postprocess:
    """What happens to an engine's outputs on the host.

    Attributes:
        mask_threshold: A pixel of a mask is set from this probability on; mmdet's ``mask_thr_binary``.
        align_corners: Of the decode head, for logits resized to the image.
        threshold: Of a decode head with one channel.
    """

    mask_threshold: float = 0.5
    align_corners: bool = False
    threshold: float = 0.3

    @classmethod
    def from_config(cls, definition: Mapping[str, Any] | None) -> Postprocess:
        """What the ``model`` of a config says; mmdet's and mmseg's own defaults where it says nothing."""
        definition = definition or {}
        rcnn = (definition.get('test_cfg') or {}).get('rcnn') or {}
        head = definition.get('decode_head') or {}
        head = head[-1] if isinstance(head, (list, tuple)) else head
        threshold = head.get('threshold')
        return cls(
            mask_threshold=float(rcnn.get('mask_thr_binary', cls.mask_threshold)),
            align_corners=bool(head.get('align_corners', False)),
            threshold=cls.threshold if threshold is None else float(threshold),
        )

    @classmethod
    def from_card(cls, card: EngineCard) -> Postprocess:
        """What ``extra['postprocess']`` of a card says; the defaults where it is not there."""
        said = card.extra.get('postprocess')
        said = said if isinstance(said, dict) else {}
        return cls(**{name: said[name] for name in cls.__dataclass_fields__ if name in said})


@dataclass(frozen=True, eq=False)
class Result:
    """What an engine says of one image.

    Attributes:
        outputs: The engine's outputs for this image, without the batch, on the CPU; pixels are those of the canvas.
        placement: Where the image was on the canvas.
        classes: Names by label.
        postprocess: What remained to be done on the host.
        picture: ``(h, w, 3)`` uint8, RGB, the image as the engine saw it; None where it was not kept.
    """

    outputs: Mapping[str, Tensor]
    placement: Placement
    classes: tuple[str, ...]
    postprocess: Postprocess = field(default_factory=Postprocess)
    picture: np.ndarray | None = field(default=None, repr=False)

    def name_of(self, label: int) -> str:
        """Name of a class, or its number where the card has no name."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a picture (``.png``) of what was found; needs the OpenMMLab library of the task.

        Raises:
            UserError: The image was not kept.
            OSError: The file cannot be written.
        """
        if self.picture is None:
            raise UserError('the image was not kept with the result: there is nothing to draw on')
        from mmtrtvit.deploy.picture import draw_side_by_side

        batch = {name: value[None] for name, value in self.outputs.items()}
        return draw_side_by_side(Path(path), self.picture, [('', batch)], self.classes)


@dataclass(frozen=True, eq=False)
class Detection:
    """One object.

    Attributes:
        box: x1, y1, x2, y2, pixels of the image.
        score: 0 to 1.
        label: Number of its class.
        name: Name of its class.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    _owner: Detections = field(repr=False)
    _row: int = field(repr=False)

    @cached_property
    def mask(self) -> Tensor | None:
        """``(h, w)`` bool in the size of the image, pasted when first asked for; None from an engine without masks."""
        masks = self._owner.paste(slice(self._row, self._row + 1))
        return None if masks is None else masks[0]


class Detections(Result):
    """The objects on one image, best first."""

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for row, (box, score, label) in enumerate(
            zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ):
            yield Detection(tuple(box), score, label, self.name_of(label), self, row)

    @cached_property
    def boxes(self) -> Tensor:
        """``(N, 4)`` float32 xyxy, pixels of the image, clipped to it."""
        return self.placement.undo_boxes(self._rows('boxes'))

    @cached_property
    def scores(self) -> Tensor:
        """``(N,)`` float32, 0 to 1."""
        return self._rows('scores')

    @cached_property
    def labels(self) -> Tensor:
        """``(N,)`` int64."""
        return self._rows('labels')

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each one's class."""
        return tuple(self.name_of(label) for label in self.labels.tolist())

    @cached_property
    def masks(self) -> Tensor | None:
        """``(N, h, w)`` bool in the size of the image; None from an engine without masks."""
        return self.paste(slice(None))

    @property
    def exact(self) -> bool:
        """Whether the engine proved that its suppression of duplicates is complete."""
        return bool(self.outputs.get('exact', torch.tensor(True)))

    def paste(self, rows: slice) -> Tensor | None:
        """Masks of some of the detections; see :attr:`masks`."""
        if 'masks' not in self.outputs:
            return None
        masks, boxes = self._rows('masks')[rows], self._rows('boxes')[rows]
        return self.placement.undo_masks(masks, boxes, self.postprocess.mask_threshold)

    def _rows(self, name: str) -> Tensor:
        """An output without its padding."""
        return self.outputs[name][: int(self.outputs['num_dets'])]


class Segmentation(Result):
    """The class of every pixel of one image."""

    @cached_property
    def label_map(self) -> Tensor:
        """``(h, w)`` int64 in the size of the image."""
        logits = self.logits
        if logits is None:
            return self.placement.undo_label_map(self.outputs['label_map'])
        if len(logits) == 1:
            return (logits[0].sigmoid() > self.postprocess.threshold).long()
        return logits.argmax(0)

    @property
    def logits(self) -> Tensor | None:
        """``(C, h, w)`` float32 in the size of the image; None from an engine that gives labels."""
        if 'logits' not in self.outputs:
            return None
        return self.placement.undo_logits(self.outputs['logits'], self.postprocess.align_corners)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes on the image, that with most pixels first."""
        labels, counts = self.label_map.unique(return_counts=True)
        return tuple(self.name_of(label) for label in labels[counts.argsort(descending=True)].tolist())


class Classification(Result):
    """The class of one image."""

    @property
    def scores(self) -> Tensor:
        """``(C,)`` float32, the probability of each class."""
        return self.outputs['scores']

    @property
    def label(self) -> int:
        """The likeliest class."""
        return int(self.scores.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.name_of(self.label)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes and their probabilities."""
        best = self.scores.topk(min(count, len(self.scores)))
        return [
            (self.name_of(int(label)), float(score)) for score, label in zip(best.values, best.indices, strict=True)
        ]


def kind_of(card: EngineCard, engine: str | os.PathLike[str]) -> type[Result]:
    """The class of an engine's results, by the names of its outputs.

    Raises:
        BackendError: They are those of no task that is known.
    """
    names = {spec.name for spec in card.outputs}
    if {'boxes', 'scores', 'labels', 'num_dets'} <= names:
        return Detections
    if 'logits' in names or 'label_map' in names:
        return Segmentation
    if 'scores' in names:
        return Classification
    raise BackendError(f'{engine}: its outputs {", ".join(sorted(names))} are those of no task that is known')


class Engine:
    """A loaded engine with what its card knows: images in, results out.

    Attributes:
        path: The engine's file.
        card: Its card.
        runner: What runs it.
        letterbox: How an image becomes its input.
        kind: The class of its results.
        batch_size: Images a call; None where any number goes.
    """

    def __init__(self, path: str | os.PathLike[str], card: EngineCard, runner: Runner) -> None:
        self.path = Path(path)
        self.card = card
        self.runner = runner
        self.letterbox = Letterbox.from_card(card, path)
        self.postprocess = Postprocess.from_card(card)
        self.kind = kind_of(card, path)
        size = card.inputs[0].shape[0]
        self.batch_size = None if isinstance(size, str) else size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""
        return self.card.classes

    @property
    def has_masks(self) -> bool:
        """Whether its detections have masks."""
        return any(spec.name == 'masks' for spec in self.card.outputs)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Any:
        """Run the engine on images.

        Args:
            images: A file or an array ``(h, w, 3)`` uint8 in BGR, or a list of them.

        Returns:
            :class:`Detections`, :class:`Segmentation` or :class:`Classification`; of a list, a list.

        Raises:
            ImageError: Something is no image.
            BackendError: The engine failed.
        """
        several = isinstance(images, (list, tuple))
        wanted: Any = images if several else [images]
        canvases = [self.letterbox(image) for image in wanted]
        results = [
            self.interpret(outputs, canvas.placement, canvas.picture)
            for outputs, canvas in zip(self.run([canvas.tensor for canvas in canvases]), canvases, strict=True)
        ]
        return results if several else results[0]

    def run(self, canvases: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Run the engine on any number of canvases; the last batch is filled up with zeros.

        Args:
            canvases: As :attr:`Canvas.tensor <mmtrtvit.deploy.preprocess.Canvas>`.

        Returns:
            For each, output name -> tensor without the batch, on the CPU.
        """
        found: list[dict[str, Tensor]] = []
        size = self.batch_size or max(1, len(canvases))
        for begin in range(0, len(canvases), size):
            part = list(canvases[begin : begin + size])
            batch = torch.stack(part + [torch.zeros_like(part[0])] * (size - len(part)))
            outputs = {name: value.cpu() for name, value in self.runner({INPUT: batch}).items()}
            found += [{name: value[row] for name, value in outputs.items()} for row in range(len(part))]
        return found

    def interpret(self, outputs: Mapping[str, Tensor], placement: Placement, picture: np.ndarray | None = None) -> Any:
        """The outputs for one image as a result in pixels of the image."""
        return self.kind(outputs, placement, self.classes, self.postprocess, picture)

    def close(self) -> None:
        """Give the engine's memory back."""
        self.runner.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    engine: str | os.PathLike[str],
    device: str | None = None,
    *,
    backend: str | None = None,
    options: LoadOptions | None = None,
) -> Engine:
    """Load an engine that was made by ``tools/deploy.py``.

    Args:
        engine: ``end2end.onnx`` or ``end2end.engine``; its card, ``<engine>.json``, lies beside it.
        device: ``'cpu'`` or ``'cuda:0'``; by default the CPU for ONNX Runtime, the first GPU for TensorRT.
        backend: What it must have been built for; None for whatever its card says.
        options: How it is run, such as ``LoadOptions(threads=4)``.

    Raises:
        BackendError: The file or its card is missing, damaged or foreign, or does not fit this machine.
    """
    path = Path(engine)
    if not path.is_file():
        raise BackendError(f'{path}: no such file: tools/deploy.py makes it')
    card = read_card(path)
    name = backend or card.backend
    runs = get_backend(name)
    if name != card.backend:  # said before a device is looked for
        raise BackendError(f'{path}: was built for {card.backend}, not for {name}: load it with {card.backend}')
    where = device or ('cuda:0' if name.startswith('tensorrt') else 'cpu')
    return Engine(path, card, runs.load(path, where, options=options))
