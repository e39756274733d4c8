"""From an image to an engine's canvas, and from the canvas back to the image.

Detectors and segmentors get the image as large as it fits, at the top left, the rest padded: what mmdet's and mmseg's
``Resize`` with ``keep_ratio`` and their data preprocessors do, with a canvas of one size. Classifiers get what their
own pipeline gives, usually the shorter edge resized and the centre cut out.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrtvit.deploy.backends import BackendError, EngineCard
from mmtrtvit.deploy.ops.masks import paste_masks
from mmtrtvit.deploy.sizing import padding_of, sizing_of_classifier
from mmtrtvit.errors import UserError

__all__ = [
    'Canvas',
    'CanvasOptions',
    'ImageError',
    'ImageLike',
    'Letterbox',
    'Placement',
    'read_image',
]

ImageLike = str | os.PathLike[str] | np.ndarray
MODES = ('letterbox', 'crop', 'stretch', 'stretch-crop', 'crop-resize')
#: The input of every graph.
INPUT = 'image'


class ImageError(UserError):
    """Something that is no image, or none that an engine takes; the message names it and what is needed."""


class CanvasOptions(Protocol):
    """The part of ``GraphOptions`` that says what a canvas is."""

    @property
    def height(self) -> int:
        """Of the canvas, pixels."""

    @property
    def width(self) -> int:
        """Of the canvas, pixels."""

    @property
    def image_dtype(self) -> str:
        """``'float32'`` or ``'uint8'``."""


def read_image(source: ImageLike) -> np.ndarray:
    """Read an image as OpenMMLab's ``LoadImageFromFile`` does, or check one that is there already.

    Args:
        source: A file, or an array ``(h, w, 3)`` uint8 in the channel order of ``cv2.imread``.

    Returns:
        ``(h, w, 3)`` uint8, BGR, turned upright as its EXIF says.

    Raises:
        ImageError: There is no such file, it is no image, or the array has another shape or type, or no pixels.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(f'a {type(source).__name__} is no image: give a file, or a uint8 array (h, w, 3) in BGR')
    path = Path(source)
    if not path.is_file():
        raise ImageError(f'{path}: {"a folder, not an image file" if path.is_dir() else "no such image file"}')
    data = path.read_bytes()
    if not data:
        raise ImageError(f'{path}: the file is empty, not an image')
    try:
        image = mmcv.imfrombytes(data, flag='color')
    except cv2.error as error:  # a header that promises more pixels than OpenCV allows
        raise ImageError(f'{path}: OpenCV cannot read it: {str(error).strip().splitlines()[-1]}') from error
    if image is None:
        raise ImageError(f'{path}: damaged, or not an image that OpenCV reads (JPEG, PNG, BMP, TIFF, WebP)')
    return image


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8:
        raise ImageError(f'an image of type {image.dtype}: uint8 from 0 to 255 is needed, as cv2.imread gives it')
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ': cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) makes one of it' if image.ndim == 2 else ''
        raise ImageError(f'an image of shape {image.shape}: (height, width, 3) in BGR is needed{hint}')
    if not image.size:
        raise ImageError(f'an image of shape {image.shape} has no pixels')
    return image


@dataclass(frozen=True)
class Placement:
    """Where an image went on its canvas.

    Attributes:
        scale_factor: Width and height on the canvas over those of the image.
        img_shape: ``(h, w)`` on the canvas, pixels, from the top left corner.
        ori_shape: ``(h, w)`` of the image, pixels.
    """

    scale_factor: tuple[float, float]
    img_shape: tuple[int, int]
    ori_shape: tuple[int, int]

    def undo_boxes(self, boxes: Tensor, clip: bool = True) -> Tensor:
        """Boxes in pixels of the image.

        Args:
            boxes: ``(N, 4)`` xyxy, pixels of the canvas.
            clip: Cut off what lies outside the image.
        """
        boxes = boxes / boxes.new_tensor(self.scale_factor * 2)
        return clip_boxes(boxes, self.ori_shape) if clip else boxes

    def undo_masks(self, masks: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
        """Masks in the size of the image, equal to what mmdet pastes.

        Args:
            masks: ``(N, 28, 28)`` probabilities.
            boxes: ``(N, 4)`` xyxy, pixels of the canvas. A mask fills its whole box, also where that sticks out of
                the image.
            threshold: As for :func:`mmtrtvit.deploy.ops.masks.paste_masks`.

        Returns:
            ``(N, h, w)`` bool.
        """
        return paste_masks(masks, self.undo_boxes(boxes, clip=False), *self.ori_shape, threshold=threshold)

    def undo_label_map(self, label_map: Tensor) -> Tensor:
        """Class of every pixel of the image, that of the nearest pixel of the canvas.

        Args:
            label_map: ``(H, W)`` of the canvas.

        Returns:
            ``(h, w)`` of the same type.
        """
        rows, columns = (
            (torch.arange(size, device=label_map.device) + 0.5) * (inner / size)
            for size, inner in zip(self.ori_shape, self.img_shape, strict=True)
        )
        return label_map[rows.long()[:, None], columns.long()[None]]

    def undo_logits(self, logits: Tensor, align_corners: bool = False) -> Tensor:
        """Logits in the size of the image, as mmseg's ``postprocess_result`` resizes them.

        Args:
            logits: ``(C, H, W)`` of the canvas.
            align_corners: Of the decode head.

        Returns:
            ``(C, h, w)``.
        """
        inner = logits[None, :, : self.img_shape[0], : self.img_shape[1]]
        return F.interpolate(inner, size=self.ori_shape, mode='bilinear', align_corners=align_corners)[0]


@dataclass(frozen=True)
class Canvas:
    """An image as an engine takes it.

    Attributes:
        tensor: ``(3, H, W)`` float32, normalised, or ``(H, W, 3)`` uint8.
        placement: Where the image is on it.
        image: ``(h, w, 3)`` uint8, BGR: the part of the canvas that is image.
    """

    tensor: Tensor
    placement: Placement
    image: np.ndarray

    @property
    def picture(self) -> np.ndarray:
        """``(h, w, 3)`` uint8, RGB: the part of the canvas that is image."""
        return np.ascontiguousarray(self.image[:, :, ::-1])


@dataclass(frozen=True)
class Letterbox:
    """How images get onto the canvas of an engine.

    Attributes:
        height: Of the canvas, pixels.
        width: Of the canvas, pixels.
        image_dtype: ``'float32'``: normalised, ``(3, H, W)``; ``'uint8'``: ``(H, W, 3)`` in BGR.
        mean: Subtracted, by channel, in the order after ``to_rgb``.
        std: Divided by.
        to_rgb: Whether the model takes the channels in the other order than ``cv2.imread`` gives.
        mode: ``'letterbox'``: as large as it fits, padded at the right and bottom; ``'crop'``: the shorter edge to
            ``short_edge``, then the centre; ``'stretch'``: to the canvas, whatever the ratio; ``'stretch-crop'``: to a
            square of ``short_edge``, then the centre; ``'crop-resize'``: the centre first, of the shorter edge as much
            as the canvas is of ``short_edge``, then to the canvas, as EfficientNet's testing does.
        short_edge: Of the modes that crop, pixels.
        interpolation: As mmcv calls it.
        resize_backend: ``'cv2'`` or ``'pillow'``.
        pad: Colour of what is padded, BGR, 0 to 255, as the ``Pad`` of a pipeline takes it; None for zeros after
            normalising, as mmdet's and mmseg's data preprocessors pad: the mean colour, of uint8 rounded.

    Raises:
        ValueError: A field has a value that it cannot have.
    """

    height: int
    width: int
    image_dtype: str = 'float32'
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    to_rgb: bool = False
    mode: str = 'letterbox'
    short_edge: int = 0
    interpolation: str = 'bilinear'
    resize_backend: str = 'cv2'
    pad: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (('mode', MODES), ('image_dtype', ('float32', 'uint8'))):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name}={getattr(self, name)!r} is not one of {", ".join(allowed)}')
        if min(self.height, self.width) < 1:
            raise ValueError(f'a canvas of {self.height}x{self.width}: both must be at least 1')
        for name in ('mean', 'std'):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) not in (1, 3) or (name == 'std' and min(values) <= 0):
                raise ValueError(f'{name}={values}: three numbers are needed{", above 0" if name == "std" else ""}')
            object.__setattr__(self, name, values * (3 // len(values)))
        if self.pad is not None:
            colour = tuple(float(value) for value in self.pad)
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ValueError(f'pad={colour}: three numbers from 0 to 255 are needed, or None')
            object.__setattr__(self, 'pad', colour)
        if 'crop' in self.mode and self.short_edge < max(self.height, self.width):
            raise ValueError(f'short_edge={self.short_edge} leaves no {self.height}x{self.width} to cut out')

    @classmethod
    def from_model(cls, model: Any, options: CanvasOptions, model_cfg: Any = None) -> Letterbox:
        """What a model of OpenMMLab wants.

        Args:
            model: Its data preprocessor is read.
            options: The canvas.
            model_cfg: Its config, of which the pipeline of testing is read: how a classifier sizes images (without
                it, the shorter edge becomes 256/224 of the canvas), with what the others pad them.
        """
        preprocessor = model.data_preprocessor
        # mmdet's, mmseg's and mmpretrain's names for the same
        names = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
        values: dict[str, Any] = {'pad': padding_of(model_cfg)}
        if any(kind.__name__ == 'BaseClassifier' for kind in type(model).__mro__):
            values = sizing_of_classifier(model_cfg, options.height, options.width)
        return cls(
            options.height,
            options.width,
            options.image_dtype,
            mean=(0.0,) * 3 if mean is None else tuple(mean.flatten().tolist()),
            std=(1.0,) * 3 if std is None else tuple(std.flatten().tolist()),
            to_rgb=any(bool(getattr(preprocessor, name, False)) for name in names),
            **values,
        )

    @classmethod
    def from_card(cls, card: EngineCard, engine: str | os.PathLike[str]) -> Letterbox:
        """What an engine wants, from its card alone.

        Raises:
            BackendError: The engine takes no image, or its card does not say how one becomes its input.
        """
        known = {entry.name for entry in fields(cls)}
        unknown = [name for name in card.normalization if name not in known]
        if unknown or 'mean' not in card.normalization:
            wrong = f'normalization has {unknown[0]!r}' if unknown else 'it has no normalization.mean'
            raise BackendError(f'{engine}: its card does not say how an image becomes its input: {wrong}')
        specs = [spec for spec in card.inputs if spec.name == INPUT]
        if len(card.inputs) != 1 or not specs or len(specs[0].shape) != 4:
            raise BackendError(
                f'{engine}: it takes {", ".join(map(str, card.inputs))}, not one {INPUT!r} of four dimensions'
            )
        spec = specs[0]
        height, width = spec.shape[2:] if spec.dtype == 'float32' else spec.shape[1:3]
        if isinstance(height, str) or isinstance(width, str):
            raise BackendError(f'{engine}: {spec}: the height and the width must be numbers')
        values = dict(card.normalization) | {'height': height, 'width': width, 'image_dtype': spec.dtype}
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise BackendError(f'{engine}: normalization in its card: {error}') from error

    def to_dict(self) -> dict[str, Any]:
        """What the card keeps under ``normalization``."""
        return asdict(self) | {'mean': list(self.mean), 'std': list(self.std)}

    def __call__(self, image: ImageLike) -> Canvas:
        """Put an image on the canvas.

        Args:
            image: A file, or ``(h, w, 3)`` uint8 in BGR.

        Raises:
            ImageError: It is no image.
        """
        resized, placement = self.fit(read_image(image))
        return Canvas(self.fill(resized), placement, resized)

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """Resize an image so that it fits; ``(h, w, 3)`` uint8."""
        height, width = ori_shape = image.shape[:2]
        if self.mode == 'crop-resize':
            image = self._centre(image)
            height, width = image.shape[:2]
        new_height, new_width = self.height, self.width
        if self.mode == 'letterbox':  # to the pixel as mmcv.rescale_size, but never to nothing
            scale = min(self.height / height, self.width / width)
            new_height, new_width = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        elif self.mode == 'crop':
            # as mmpretrain's ResizeEdge
            short = self.short_edge
            new_height, new_width = (
                (int(short * height / width), short) if width < height else (short, int(short * width / height))
            )
        elif self.mode == 'stretch-crop':
            new_height = new_width = self.short_edge
        if (new_height, new_width) != (height, width):
            image = mmcv.imresize(
                image, (new_width, new_height), interpolation=self.interpolation, backend=self.resize_backend
            )
        if self.mode in ('crop', 'stretch-crop'):  # as mmcv's CenterCrop
            top, left = round((new_height - self.height) / 2), round((new_width - self.width) / 2)
            image = image[top : top + self.height, left : left + self.width]
        scale_factor = (new_width / width, new_height / height)
        return image, Placement(scale_factor, (image.shape[0], image.shape[1]), (ori_shape[0], ori_shape[1]))

    def _centre(self, image: np.ndarray) -> np.ndarray:
        """What mmpretrain's EfficientNetCenterCrop cuts out before it resizes; its rounding too."""
        short = min(image.shape[:2])
        for axis, edge in enumerate((self.height, self.width)):
            kept = edge / self.short_edge * short
            first = max(0, round((image.shape[axis] - kept) / 2))
            image = image.take(range(first, max(first + 1, min(int(first + kept - 1) + 1, image.shape[axis]))), axis)
        return image

    def fill(self, image: np.ndarray) -> Tensor:
        """Normalise and pad an image that fits.

        Args:
            image: ``(h, w, 3)`` uint8, BGR, no larger than the canvas.

        Returns:
            ``(3, H, W)`` float32 or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: It is larger than the canvas.
        """
        height, width = image.shape[:2]
        if height > self.height or width > self.width:
            raise ImageError(f'an image of {height}x{width} does not fit the canvas of {self.height}x{self.width}')
        if self.image_dtype == 'uint8':
            colour = self.pad or (self.mean[::-1] if self.to_rgb else self.mean)
            # half up, and within what a pixel can be: a mean in other units is no colour
            padding = np.clip(np.floor(np.array(colour) + 0.5), 0, 255).astype(np.uint8)
            canvas = np.empty((self.height, self.width, 3), dtype=np.uint8)
            canvas[:] = padding
            canvas[:height, :width] = image
            return torch.from_numpy(canvas)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.to_rgb:
            pixels = pixels.flip(0)
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        tensor = self.padding.expand(3, self.height, self.width).clone()
        tensor[:, :height, :width] = (pixels.float() - mean) / std
        return tensor

    @property
    def padding(self) -> Tensor:
        """``(3, 1, 1)`` float32: what is padded, normalised, in the model's order of channels."""
        if self.pad is None:
            return torch.zeros(3, 1, 1)
        colour = self.pad[::-1] if self.to_rgb else self.pad
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (self.mean, self.std))
        return ((torch.tensor(colour, dtype=torch.float32) - mean) / std)[:, None, None]


def clip_boxes(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cut off what of ``(N, 4)`` xyxy boxes lies outside an image of ``(h, w)`` pixels."""
    height, width = shape
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
