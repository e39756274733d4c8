"""Where the labels of a scatter plot go, so that they cover neither each other nor the points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ['Box', 'along_line', 'place']

#: Distances from the point at which a label is tried, pixels, and how many directions.
_RADII = (4.0, 9.0, 16.0, 26.0, 38.0, 54.0, 72.0, 92.0)
_DIRECTIONS = 16
_SWEEPS = 4

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """A rectangle, pixels; ``y`` may grow upwards or downwards."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Area that both cover, square pixels."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        along = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, across) * max(0.0, along)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another."""
        return min(max(x, self.x), self.x + self.width), min(max(y, self.y), self.y + self.height)


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    obstacles: Sequence[Box] = (),
) -> list[Box]:
    """Choose a place for each label.

    Every label is tried all around its point, near ones first; the place that covers least is taken, and the labels
    are placed anew a few times, now that the others' places are known. The same input gives the same places.

    Args:
        points: What is labelled, pixels.
        sizes: Width and height of each label.
        bounds: What no label should leave.
        obstacles: What no label should cover, such as the points' marks and error bars.

    Returns:
        A box for each label.
    """
    if not points:
        return []
    choices = [_candidates(point, size) for point, size in zip(points, sizes, strict=True)]
    fixed = [
        2.0 * _covered(boxes, obstacles) + 3.0 * _outside(boxes, bounds) + distances for boxes, distances in choices
    ]
    # the most crowded first: who has many neighbours has little to choose from
    order = sorted(range(len(points)), key=lambda k: (-_crowd(points, k), k))
    taken: dict[int, Box] = {}
    for _ in range(_SWEEPS):
        before = dict(taken)
        for k in order:
            others = [box for other, box in taken.items() if other != k]
            costs = fixed[k] + 4.0 * _covered(choices[k][0], others)
            taken[k] = Box(*choices[k][0][int(costs.argmin())].tolist())
        if taken == before:
            break
    return [taken[k] for k in range(len(points))]


def along_line(corners: Sequence[tuple[float, float]], step: float = 12.0) -> list[Box]:
    """Small boxes along a line, for labels to keep off it."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        count = max(2, int(math.dist((x0, y0), (x1, y1)) / step))
        found += [Box(x0 + (x1 - x0) * k / count - 3, y0 + (y1 - y0) * k / count - 3, 6, 6) for k in range(count)]
    return found


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> tuple[Array, Array]:
    """Places around a point, ``(N, 4)``: x, y, width, height; and what the distance of each costs, ``(N,)``."""
    boxes, distances = [], []
    for radius in _RADII:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            across, along = math.cos(angle), math.sin(angle)
            # the label's edge touches the circle: its centre is further out, by its half extent in that direction
            x = point[0] + across * radius + (across - 1) / 2 * size[0]
            y = point[1] + along * radius + (along - 1) / 2 * size[1]
            boxes.append((x, y, *size))
            distances.append(2.0 * radius + (0.0 if step % 4 == 0 else 3.0))
    return np.array(boxes), np.array(distances)


def _covered(boxes: Array, others: Sequence[Box]) -> Array:
    """How much of each box ``(N, 4)`` lies on other boxes, square pixels, ``(N,)``."""
    if not others:
        return np.zeros(len(boxes))
    x, y, width, height = np.array([(box.x, box.y, box.width, box.height) for box in others]).T
    left, top, across, along = (boxes[:, k, None] for k in range(4))
    wide = np.minimum(left + across, x + width) - np.maximum(left, x)
    high = np.minimum(top + along, y + height) - np.maximum(top, y)
    return np.asarray((wide.clip(0) * high.clip(0)).sum(1))


def _outside(boxes: Array, bounds: Box) -> Array:
    return np.asarray(boxes[:, 2] * boxes[:, 3] - _covered(boxes, [bounds]))


def _crowd(points: Sequence[tuple[float, float]], k: int) -> int:
    return sum(math.dist(points[k], other) < 80 for other in points) - 1
