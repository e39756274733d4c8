"""Masks to COCO's polygons and run lengths and back, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_utils

from mmtrtvit.datasets.coco import annotation, polygons, rasterise, run_lengths
from mmtrtvit.datasets.shapes import Instance

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(np.any)


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


RING = disc(60, 70, 30, 35, 28) & ~disc(60, 70, 30, 35, 15)
NASTY = {
    'one pixel': np.eye(1, 9, 4, dtype=bool),
    'all': np.ones((7, 9), dtype=bool),
    'line': np.eye(9, dtype=bool)[[4]],
    'diagonal': np.eye(9, dtype=bool),
    'chessboard': np.indices((8, 8)).sum(axis=0) % 2 == 0,
    'ring': RING,
    'ring in a ring': RING | disc(60, 70, 30, 35, 9) & ~disc(60, 70, 30, 35, 4),
    'two holes': disc(60, 70, 30, 35, 29) & ~disc(60, 70, 30, 22, 8) & ~disc(60, 70, 30, 48, 8),
    'sieve': ~((np.indices((40, 40)) % 4 == 1).all(axis=0)),
    'hole at a corner': np.pad(np.ones((2, 2), bool), 1) ^ np.ones((4, 4), bool),
    'cut by the border': disc(40, 40, 0, 0, 30) & ~disc(40, 40, 0, 0, 20),
}


@pytest.mark.parametrize('name', NASTY)
def test_polygons_are_exact(name):
    mask = NASTY[name]
    found = polygons(mask)
    assert np.array_equal(rasterise(found, *mask.shape), mask)
    assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in found)
    points = np.concatenate(found).reshape(-1, 2)
    assert (points >= 0).all()
    assert (points <= mask.shape[::-1]).all()


@settings(deadline=None, max_examples=150)
@given(MASKS)
def test_polygons_of_any_mask_are_exact(mask):
    assert np.array_equal(rasterise(polygons(mask), *mask.shape), mask)


def test_a_hole_is_cut_open_not_filled():
    assert len(polygons(RING)) == 1
    assert len(polygons(RING | disc(60, 70, 30, 35, 9))) == 2


def test_polygons_are_short():
    mask = disc(200, 200, 100, 100, 90)
    assert len(polygons(mask)[0]) // 2 < 400  # of 720 pixels' corners around it


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_run_lengths_are_those_of_pycocotools(mask):
    found = run_lengths(mask)
    assert sum(found['counts']) == mask.size
    compressed = mask_utils.frPyObjects(found, *mask.shape)
    assert compressed == mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


@settings(deadline=None, max_examples=50)
@given(MASKS, st.booleans())
def test_area_and_box_are_those_of_pycocotools(mask, crowd):
    entry = annotation(Instance(2, mask, crowd), image_id=7, annotation_id=70)
    runs = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert entry['area'] == mask_utils.area(runs)
    assert entry['bbox'] == mask_utils.toBbox(runs).tolist()
    assert (entry['iscrowd'], entry['category_id'], entry['image_id'], entry['id']) == (int(crowd), 3, 7, 70)
    assert isinstance(entry['segmentation'], dict if crowd else list)
