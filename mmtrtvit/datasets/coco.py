"""Masks as COCO writes them: polygons for objects, run lengths for crowd regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from mmtrtvit.datasets.shapes import CLASSES, Instance

Mask = NDArray[np.bool_]

CATEGORIES = [{'id': label + 1, 'name': name, 'supercategory': 'shape'} for label, name in enumerate(CLASSES)]


def annotation(instance: Instance, image_id: int, annotation_id: int) -> dict[str, Any]:
    """Return one entry of ``annotations`` in a COCO instances file.

    ``area`` is the number of visible pixels and ``bbox`` is ``[x, y, width, height]`` around them, both as
    pycocotools computes them from the mask. An object has polygons that pycocotools rasterises to exactly its mask;
    a crowd region has uncompressed run lengths, as in COCO's own files.
    """
    rows, columns = np.flatnonzero(instance.mask.any(axis=1)), np.flatnonzero(instance.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        'segmentation': run_lengths(instance.mask) if instance.crowd else polygons(instance.mask),
        'area': int(instance.mask.sum()),
        'iscrowd': int(instance.crowd),
        'image_id': image_id,
        'bbox': [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        'category_id': instance.label + 1,
        'id': annotation_id,
    }


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """Return COCO's uncompressed RLE: lengths of runs of 0, 1, 0, ... down the columns, beginning with 0."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(starts).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {'counts': counts, 'size': list(mask.shape)}


def polygons(mask: Mask) -> list[list[float]]:
    """Return COCO polygons ``[x0, y0, x1, y1, ...]`` of a mask, one for each connected part.

    A polygon cannot say "hole"; as annotators do, a part with a hole is cut open: one polygon runs around the
    outside, crosses to the hole, runs around it the other way and returns along the same line.

    Args:
        mask: bool ``(H, W)`` with at least one pixel.

    Returns:
        Polygons that pycocotools rasterises to exactly ``mask``, simplified where that changes no pixel.

    Raises:
        RuntimeError: There is none; no mask is known for which this happens.
    """
    for tolerance in (0.6, 0.0):
        found = _trace(mask, tolerance)
        if found and np.array_equal(rasterise(found, *mask.shape), mask):
            return found
    raise RuntimeError(f'no polygon for a mask of {int(mask.sum())} pixels; please report it with the seed')


def rasterise(found: Sequence[list[float]], height: int, width: int) -> Mask:
    """Return bool ``(height, width)``: the union of polygons as pycocotools sees them."""
    runs = mask_utils.frPyObjects(list(found), height, width)
    return mask_utils.decode(mask_utils.merge(runs)).astype(bool)


def _trace(mask: Mask, tolerance: float) -> list[list[float]]:
    """Trace a mask on a grid twice as fine.

    cv2 traces through the centres of border pixels; on the doubled grid these lie a quarter of a pixel inside the
    true border and a quarter outside the nearest pixel centre that matters, so nothing is lost or gained.

    Args:
        mask: bool ``(H, W)``.
        tolerance: How far a simplified polygon may leave the traced one, in half pixels.
    """
    fine = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tolerance:
        contours = [cv2.approxPolyDP(contour, tolerance, closed=True) for contour in contours]
    points = [contour.reshape(-1, 2) for contour in contours]
    if any(len(contour) < 3 for contour in points):
        return []
    found = []
    for number, outer in enumerate(points):
        if tree[0][number][3] != -1:
            continue  # a hole, cut open below with the part it belongs to
        holes = [points[k] for k in range(len(points)) if tree[0][k][3] == number]
        found.append(((_cut_open(outer, holes) + 0.5) / 2).ravel().tolist())
    return found


def _cut_open(outer: NDArray[np.int32], holes: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Join holes to the outline around them, each across the shortest bridge to what is joined already."""
    rest = list(holes)
    while rest:
        gaps = [((outer[:, None] - hole[None]) ** 2).sum(axis=2) for hole in rest]
        nearest = min(range(len(rest)), key=lambda k: int(gaps[k].min()))
        here, there = np.unravel_index(int(gaps[nearest].argmin()), gaps[nearest].shape)
        hole = np.roll(rest.pop(nearest), -int(there), axis=0)
        outer = np.concatenate([outer[: here + 1], hole, hole[:1], outer[here:]])
    return outer
