"""Scenes of textured shapes: what is in them, where, and which pixels of each object can be seen.

Everything here is our own decision; there is no data set that this imitates. One scene depends on ``(seed, split,
index)`` and on the image size alone: it has a random generator of its own, so neither the number of images nor the
order or the number of workers that make them changes a single pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ('circle', 'triangle', 'square', 'star', 'ring', 'cross', 'crescent', 'arrow')
"""Class names; class ``i`` has category id ``i + 1`` in COCO and value ``i + 1`` in a semantic mask."""

PALETTE = [
    (220, 20, 60),
    (255, 158, 0),
    (250, 235, 40),
    (60, 180, 75),
    (0, 190, 200),
    (40, 90, 255),
    (145, 60, 220),
    (240, 60, 200),
]
"""RGB colours of the classes in pictures; each is also the hue that most objects of the class have.

A list, because mmdet's visualizer takes a tuple for one colour.
"""

METAINFO = {'classes': CLASSES, 'palette': PALETTE}
"""``metainfo`` of an OpenMMLab data set; a config repeats it literally, and a test compares the two."""

SPLITS = ('train', 'val')
MIN_EXTENT = 8.0
"""Pixels; nothing smaller is drawn as an object (a feature pyramid starts at stride 4)."""
MIN_SEEN = 0.4
"""Share of an object's pixels that later objects must leave visible."""
MIN_INSIDE = 0.55
"""Share of an object's area that must lie within the image."""
HUE_CUE = 0.9
"""Share of objects that have the hue of their class; the rest can be told by outline alone."""
CROWD_SHAPES = (8, 14)
"""Fewest and most shapes of a crowd region."""

_STRATA = (
    # share of the objects, least and greatest extent as a part of the longer image side. With --size 640 these are
    # 26-58, 64-128, 128-256, 256-352 and 544-704 pixels: COCO's small, medium and large, all levels of an FPN.
    (0.10, 0.040, 0.090),
    (0.25, 0.100, 0.200),
    (0.40, 0.200, 0.400),
    (0.20, 0.400, 0.550),
    (0.05, 0.850, 1.100),
)
_COUNTS = (0.18, 0.25, 0.24, 0.17, 0.10, 0.06)  # shares of images with 1, 2, ... 6 objects
_EMPTY_EVERY, _EMPTY_AT = 10, 9  # images 9, 19, 29, ... have no object
_CROWD_EVERY, _CROWD_AT = 20, 4  # images 4, 24, 44, ... have a crowd region
_SUPERSAMPLING = 4

Contours = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Shape:
    """One shape on the canvas.

    Attributes:
        label: Index into :data:`CLASSES`.
        extent: Pixels between its farthest points before it is squeezed and turned, about.
        x: Left end of ``cover`` in the image, pixels.
        y: Upper end of ``cover`` in the image, pixels.
        cover: float32 ``(h, w)``, part of each pixel that the outline covers, cropped to the image.
        inside: Part of the shape's area that lies within the image.
        crowd: Whether it belongs to the image's crowd region.
    """

    label: int
    extent: float
    x: int
    y: int
    cover: NDArray[np.float32]
    inside: float
    crowd: bool = False

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return bool ``(height, width)``: the pixels it covers at least by half, whatever lies on top of it."""
        mask = np.zeros((height, width), dtype=bool)
        h, w = self.cover.shape
        mask[self.y : self.y + h, self.x : self.x + w] = self.cover >= 0.5
        return mask


@dataclass(frozen=True)
class Instance:
    """One annotation: an object, or all shapes of a crowd region together.

    Attributes:
        label: Index into :data:`CLASSES`.
        mask: bool ``(H, W)``, the visible pixels. No pixel belongs to two instances of an image.
        crowd: Whether this is a crowd region, COCO's ``iscrowd``.
    """

    label: int
    mask: NDArray[np.bool_]
    crowd: bool


@dataclass(frozen=True)
class Layout:
    """What is on one image, before it is painted.

    Attributes:
        height: Pixels.
        width: Pixels.
        shapes: In the order they are painted; later ones hide earlier ones.
    """

    height: int
    width: int
    shapes: tuple[Shape, ...]

    def instances(self) -> list[Instance]:
        """Return the visible part of every object, in painting order; the crowd region, if any, comes last."""
        owner = np.zeros((self.height, self.width), dtype=np.int32)
        for number, shape in enumerate(self.shapes, start=1):
            owner[shape.mask(self.height, self.width)] = number
        found = [
            Instance(shape.label, owner == number, crowd=False)
            for number, shape in enumerate(self.shapes, start=1)
            if not shape.crowd
        ]
        crowd = [number for number, shape in enumerate(self.shapes, start=1) if shape.crowd]
        if crowd:
            label = self.shapes[crowd[0] - 1].label
            found.append(Instance(label, np.isin(owner, crowd), crowd=True))
        return found


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator of one image.

    Args:
        seed: Seed of the data set, 0 or more.
        split: 'train' or 'val'.
        index: Number of the image within the split, from 0.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index])


def arrange(rng: np.random.Generator, index: int, size: int) -> Layout:
    """Choose what is on an image.

    Every tenth image has no object; every twentieth has a crowd region. The largest object of image ``index`` has
    class ``index % 8``, so 10 images hold every class.

    Args:
        rng: Generator of the image, see :func:`scene_rng`.
        index: Number of the image within its split.
        size: Longer side of the image, pixels.
    """
    short = round(size * float(rng.choice([1.0, 0.75, 2 / 3])))
    height, width = (size, short) if rng.random() < 0.3 else (short, size)
    if index % _EMPTY_EVERY == _EMPTY_AT:
        return Layout(height, width, ())
    count = 1 + rng.choice(len(_COUNTS), p=_COUNTS)
    extents = sorted((_extent(rng, size) for _ in range(count)), reverse=True)
    shapes: list[Shape] = []
    for number, extent in enumerate(extents):
        label = index % len(CLASSES) if number == 0 else int(rng.integers(len(CLASSES)))
        _place(rng, shapes, label, extent, height, width)
        if number == 0 and index % _CROWD_EVERY == _CROWD_AT:
            _place_crowd(rng, shapes, size, height, width)
    return Layout(height, width, tuple(shapes))


def _extent(rng: np.random.Generator, size: int) -> float:
    _, low, high = _STRATA[rng.choice(len(_STRATA), p=[share for share, _, _ in _STRATA])]
    return max(MIN_EXTENT, size * float(rng.uniform(low, high)))


def _place(rng: np.random.Generator, shapes: list[Shape], label: int, extent: float, height: int, width: int) -> None:
    """Add a shape where it hides none of ``shapes`` too much; after 12 places in vain, add none."""
    contours = outline(rng, label)
    for _ in range(12):
        centre = rng.uniform((0.0, 0.0), (width, height))
        shape = draw(contours, label, extent, float(centre[0]), float(centre[1]), height, width)
        if shape is not None and shape.inside >= MIN_INSIDE and _all_seen([*shapes, shape], height, width):
            shapes.append(shape)
            return
        if not shapes:  # the first shape of an image is never given up: towards the middle it always fits
            extent *= 0.95


def _place_crowd(rng: np.random.Generator, shapes: list[Shape], size: int, height: int, width: int) -> None:
    """Add a crowd region: many small shapes of one class, heaped."""
    label = int(rng.integers(len(CLASSES)))
    for _ in range(20):
        middle = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height))
        crowd: list[Shape] = []
        for _ in range(int(rng.integers(CROWD_SHAPES[0], CROWD_SHAPES[1] + 1))):
            extent = max(MIN_EXTENT, size * float(rng.uniform(0.06, 0.10)))
            x, y = middle + rng.normal(0.0, 0.07 * size, 2)
            shape = draw(outline(rng, label), label, extent, float(x), float(y), height, width, crowd=True)
            if shape is not None:
                crowd.append(shape)
        if len(crowd) >= CROWD_SHAPES[0] and _all_seen([*shapes, *crowd], height, width):
            shapes.extend(crowd)
            return


def _all_seen(shapes: list[Shape], height: int, width: int) -> bool:
    """Say whether enough of every object, and of the crowd as a whole, is visible."""
    layout = Layout(height, width, tuple(shapes))
    crowd = np.zeros((height, width), dtype=bool)
    whole: list[int] = []
    for shape in shapes:
        if shape.crowd:
            crowd |= shape.mask(height, width)
        else:
            whole.append(int((shape.cover >= 0.5).sum()))
    if crowd.any():
        whole.append(int(crowd.sum()))
    # A quarter of the smallest square is the least that is worth an annotation.
    least = MIN_EXTENT**2 / 4
    seen = [int(instance.mask.sum()) for instance in layout.instances()]
    return all(part >= max(least, MIN_SEEN * full) for part, full in zip(seen, whole, strict=True))


def draw(
    contours: Contours, label: int, extent: float, x: float, y: float, height: int, width: int, *, crowd: bool = False
) -> Shape | None:
    """Rasterise an outline.

    Args:
        contours: Outline within a circle of diameter 1; a second contour is a hole.
        label: Index into :data:`CLASSES`.
        extent: Diameter of that circle in pixels.
        x: Its centre, pixels from the image's left edge.
        y: Its centre, pixels from the image's upper edge.
        height: Of the image, pixels.
        width: Of the image, pixels.
        crowd: Whether the shape belongs to the crowd region.

    Returns:
        The shape, or None where no pixel of it lies in the image.
    """
    points = [contour * extent + (x, y) for contour in contours]
    low = np.floor(points[0].min(axis=0)).astype(int)
    high = np.ceil(points[0].max(axis=0)).astype(int)
    # Rasterise the whole shape on a fine grid, then average: each pixel gets the part of it that is covered.
    fine = np.zeros(((high[1] - low[1]) * _SUPERSAMPLING, (high[0] - low[0]) * _SUPERSAMPLING), dtype=np.uint8)
    # cv2 puts integers on the centres of fine pixels, hence -0.5; 4 fractional bits.
    fixed = [np.round(((contour - low) * _SUPERSAMPLING - 0.5) * 16).astype(np.int32) for contour in points]
    cv2.fillPoly(fine, fixed, 1, shift=4)
    blocks = fine.reshape(high[1] - low[1], _SUPERSAMPLING, high[0] - low[0], _SUPERSAMPLING)
    cover = blocks.mean(axis=(1, 3), dtype=np.float32)
    left, top = max(0, low[0]), max(0, low[1])
    visible = cover[top - low[1] : max(0, height - low[1]), left - low[0] : max(0, width - low[0])]
    if visible.size == 0 or not (visible >= 0.5).any():
        return None
    inside = float(visible.sum() / cover.sum())
    return Shape(label, extent, int(left), int(top), np.ascontiguousarray(visible), inside, crowd)


def outline(rng: np.random.Generator, label: int) -> Contours:
    """Return a turned and slightly squeezed outline of a class, within a circle of diameter 1 around the origin."""
    contours = _OUTLINES[CLASSES[label]](rng)
    angle = rng.uniform(0.0, 2 * math.pi)
    squeeze = np.diag([1.0, rng.uniform(0.8, 1.0)])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return [contour @ squeeze @ turn.T for contour in contours]


def _arc(radius: float, start: float = 0.0, stop: float = 2 * math.pi, count: int = 64) -> NDArray[np.float64]:
    angles = np.linspace(start, stop, count, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle(rng: np.random.Generator) -> Contours:
    return [_arc(0.5)]


def _triangle(rng: np.random.Generator) -> Contours:
    return [_arc(0.5, count=3)]


def _square(rng: np.random.Generator) -> Contours:
    return [_arc(0.5, count=4)]


def _star(rng: np.random.Generator) -> Contours:
    points = _arc(0.5, count=10)
    points[1::2] *= rng.uniform(0.38, 0.48)
    return [points]


def _ring(rng: np.random.Generator) -> Contours:
    return [_arc(0.5), _arc(0.5 * float(rng.uniform(0.5, 0.65)))]


def _cross(rng: np.random.Generator) -> Contours:
    arm, half = 0.47, float(rng.uniform(0.13, 0.17))
    corner = [(arm, -half), (arm, half), (half, half)]
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    points = np.array(corner)
    return [np.concatenate([points @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])]


def _crescent(rng: np.random.Generator) -> Contours:
    # A disc of radius 0.5 less a disc of radius `bite` whose centre lies `shift` to the right.
    bite, shift = 0.42, float(rng.uniform(0.22, 0.28))
    x = (0.25 - bite**2 + shift**2) / (2 * shift)
    horn = math.sqrt(0.25 - x**2)
    outer, inner = math.atan2(horn, x), math.atan2(horn, x - shift)
    back = _arc(0.5, outer, 2 * math.pi - outer, 48)
    front = _arc(bite, 2 * math.pi - inner, inner, 48) + np.array([shift, 0.0])
    return [np.concatenate([back, front])]


def _arrow(rng: np.random.Generator) -> Contours:
    shaft, neck = float(rng.uniform(0.09, 0.13)), float(rng.uniform(-0.02, 0.08))
    upper = [(0.5, 0.0), (neck, 0.38), (neck, shaft), (-0.48, shaft)]
    return [np.array(upper + [(x, -y) for x, y in reversed(upper[1:])])]


_OUTLINES = {
    'circle': _circle,
    'triangle': _triangle,
    'square': _square,
    'star': _star,
    'ring': _ring,
    'cross': _cross,
    'crescent': _crescent,
    'arrow': _arrow,
}
