"""Painting a scene: a cluttered background, textured shapes, sensor noise."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mmtrtvit.datasets.shapes import HUE_CUE, PALETTE, Layout, Shape

Image = NDArray[np.float32]
Colour = NDArray[np.float32]

TEXTURES = ('plain', 'gradient', 'stripes', 'checks', 'dots', 'noise')


def paint(layout: Layout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint a scene.

    Args:
        layout: What is on the image.
        rng: The image's generator, as :func:`~mmtrtvit.datasets.shapes.arrange` left it.

    Returns:
        uint8 ``(H, W, 3)`` in BGR order, as OpenCV writes it.
    """
    canvas = _background(rng, layout.height, layout.width)
    for shape in layout.shapes:
        height, width = shape.cover.shape
        under = canvas[shape.y : shape.y + height, shape.x : shape.x + width]
        cover = shape.cover[:, :, None]
        under += cover * (_texture(rng, shape) - under)
    canvas += rng.normal(0.0, rng.uniform(1.0, 6.0), canvas.shape).astype(np.float32)
    canvas *= np.float32(rng.uniform(0.9, 1.1))
    rgb = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _colour(hue: float, saturation: float, value: float) -> Colour:
    """Return an RGB colour, 0 to 255, from hue, saturation and value, each 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32) * 255


def _dull(rng: np.random.Generator) -> Colour:
    """Return a colour of the background: any hue, little of it."""
    return _colour(rng.random(), rng.uniform(0.0, 0.3), rng.uniform(0.2, 0.9))


def _background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Return float32 ``(H, W, 3)``: a gradient, clouds, blobs without corners, lines. None of it is an object."""
    canvas = _ramp(rng, height, width, _dull(rng), _dull(rng))
    cells = int(rng.integers(3, 12))
    coarse = rng.normal(0.0, rng.uniform(5.0, 20.0), (cells, cells, 1)).astype(np.float32)
    canvas += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, None]
    size = max(height, width)
    for _ in range(int(rng.integers(0, 6))):
        _blob(rng, canvas, size * float(rng.uniform(0.04, 0.25)))
    for _ in range(int(rng.integers(0, 8))):
        ends = np.round(rng.uniform((0, 0), (width, height), (2, 2)) * 16).astype(int)
        thickness = int(rng.integers(1, max(2, size // 80) + 1))
        cv2.line(canvas, tuple(ends[0]), tuple(ends[1]), _dull(rng).tolist(), thickness, cv2.LINE_AA, shift=4)
    return canvas


def _blob(rng: np.random.Generator, canvas: Image, radius: float) -> None:
    """Paint a wobbly patch with a soft edge: something to be mistaken for an object by colour, not by outline."""
    height, width = canvas.shape[:2]
    angles = np.linspace(0.0, 2 * math.pi, 60, endpoint=False)
    wobble = sum(rng.uniform(0.0, 0.25) * np.cos(k * angles + rng.uniform(0.0, 2 * math.pi)) for k in (2, 3, 5))
    reach = radius * (1.0 + wobble)
    points = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1) + rng.uniform((0, 0), (width, height))
    soft = np.zeros((height, width), dtype=np.float32)
    cv2.fillPoly(soft, [np.round(points * 16).astype(np.int32)], 1.0, shift=4)
    soft = cv2.GaussianBlur(soft, (0, 0), max(0.8, radius * 0.15))[:, :, None]
    colour = _colour(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.9))
    canvas += soft * float(rng.uniform(0.4, 0.9)) * (colour - canvas)


def _texture(rng: np.random.Generator, shape: Shape) -> Image:
    """Return float32 ``(h, w, 3)`` for the pixels of ``shape.cover``."""
    height, width = shape.cover.shape
    first, second = _colours(rng, shape.label)
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    if kind == 'plain':
        return np.broadcast_to(first, (height, width, 3))
    if kind == 'gradient':
        return _ramp(rng, height, width, first, second)
    if kind == 'noise':
        weight = np.clip(rng.normal(0.5, 0.35, (height, width)), 0.0, 1.0).astype(np.float32)
    else:
        period = max(3.0, shape.extent * float(rng.uniform(0.12, 0.3)))
        weight = _pattern(kind, *_turned(rng, height, width, period))
    return first + weight[:, :, None] * (second - first)


def _colours(rng: np.random.Generator, label: int) -> tuple[Colour, Colour]:
    """Return an object's two colours: one strong hue, once light and once dark or mixed with white."""
    own = colorsys.rgb_to_hsv(*(part / 255 for part in PALETTE[label]))[0]
    hue = own + rng.uniform(-0.03, 0.03) if rng.random() < HUE_CUE else rng.random()
    first = _colour(hue, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0))
    if rng.random() < 0.5:
        second = _colour(hue + rng.uniform(-0.03, 0.03), rng.uniform(0.7, 1.0), rng.uniform(0.25, 0.5))
    else:
        second = _colour(hue, rng.uniform(0.1, 0.4), rng.uniform(0.85, 1.0))
    return first, second


def _ramp(rng: np.random.Generator, height: int, width: int, first: Colour, second: Colour) -> Image:
    """Return float32 ``(h, w, 3)`` that goes from one colour to another in a random direction."""
    along, _ = _turned(rng, height, width, 1.0)
    span = float(along.max() - along.min()) or 1.0
    weight = (along - along.min()) / span
    return first + weight[:, :, None] * (second - first)


def _turned(rng: np.random.Generator, height: int, width: int, period: float) -> tuple[Image, Image]:
    """Return the two float32 ``(h, w)`` coordinates of a grid turned by a random angle, in units of ``period``."""
    angle, offset = rng.uniform(0.0, math.pi), rng.uniform(0.0, 1.0, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(period)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return cos * x + sin * y + np.float32(offset[0]), cos * y - sin * x + np.float32(offset[1])


def _pattern(kind: str, u: Image, v: Image) -> Image:
    """Return float32 ``(h, w)`` of 0 and 1 for stripes, checks or dots."""
    if kind == 'stripes':
        second = u % 1.0 < 0.5
    elif kind == 'checks':
        second = (u % 1.0 < 0.5) ^ (v % 1.0 < 0.5)
    else:
        second = (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.3**2
    return second.astype(np.float32)
