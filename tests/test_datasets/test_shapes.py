"""What is on the images: classes, sizes, occlusion, and that it depends on nothing but (seed, split, index, size)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

from mmtrtvit.datasets import shapes
from mmtrtvit.datasets.paint import paint
from mmtrtvit.datasets.shapes import CLASSES, METAINFO, PALETTE, arrange, draw, outline, scene_rng


def layouts(count: int, size: int, split: str = 'train') -> list[shapes.Layout]:
    return [arrange(scene_rng(0, split, index), index, size) for index in range(count)]


def test_metainfo():
    assert METAINFO == {'classes': CLASSES, 'palette': PALETTE}
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == len(set(PALETTE)) == 8
    assert isinstance(PALETTE, list)  # mmdet.visualization.get_palette takes a tuple for one colour


@pytest.mark.parametrize('label', range(len(CLASSES)), ids=CLASSES)
def test_outlines_are_rasterised_truly(label):
    """Against matplotlib's point-in-polygon test at every pixel centre, and the shoelace formula."""
    rng = np.random.default_rng(label)
    for _ in range(5):
        contours = outline(rng, label)
        assert max(np.hypot(*contour.T).max() for contour in contours) <= 0.5 + 1e-9
        extent, x, y = float(rng.uniform(30, 90)), float(rng.uniform(20, 80)), float(rng.uniform(20, 80))
        shape = draw(contours, label, extent, x, y, 100, 110)
        assert shape is not None
        centres = np.stack(np.meshgrid(np.arange(110) + 0.5, np.arange(100) + 0.5), axis=-1).reshape(-1, 2)
        expected = np.zeros(len(centres), dtype=bool)
        for contour in contours:  # a second contour is a hole: exclusive or
            expected ^= Outline(contour * extent + (x, y)).contains_points(centres)
        expected = expected.reshape(100, 110)
        different = centres[(shape.mask(100, 110) != expected).ravel()]
        assert len(different) < 0.06 * expected.sum() + 20
        edges = [(contour * extent + (x, y)).astype(np.float32) for contour in contours]
        for point in different:  # only where the outline itself runs
            assert min(abs(cv2.pointPolygonTest(edge, tuple(map(float, point)), True)) for edge in edges) < 0.4

        whole = draw(contours, label, extent, 150.3, 149.9, 300, 300)
        areas = [cv2.contourArea((contour * extent).astype(np.float32)) for contour in contours]
        assert whole is not None
        assert whole.inside == pytest.approx(1.0)
        around = sum(cv2.arcLength((contour * extent).astype(np.float32), True) for contour in contours)
        assert whole.cover.sum() == pytest.approx(areas[0] - sum(areas[1:]), abs=0.25 * around)
        assert shape.inside == pytest.approx(shape.cover.sum() / whole.cover.sum(), rel=0.03)


def test_draw_outside_the_image():
    contours = outline(np.random.default_rng(0), 0)
    for x, y in [(-50, 20), (20, -50), (150, 20), (20, 150), (-9.4, -9.4)]:
        assert draw(contours, 0, 20.0, x, y, 100, 100) is None


@pytest.mark.parametrize('size', [64, 200])
def test_objects_are_disjoint_visible_and_in_painting_order(size):
    several = 0
    for layout in layouts(60, size):
        instances = layout.instances()
        assert max(layout.height, layout.width) == size
        owners = sum(
            (instance.mask.astype(int) for instance in instances), np.zeros((layout.height, layout.width), int)
        )
        assert owners.max(initial=0) <= 1
        for instance, shape in zip(instances, [shape for shape in layout.shapes if not shape.crowd], strict=False):
            full = shape.mask(layout.height, layout.width)
            assert not (instance.mask & ~full).any()
            assert instance.mask.sum() >= max(16, shapes.MIN_SEEN * full.sum())
            assert shape.inside >= shapes.MIN_INSIDE
            assert shape.extent >= shapes.MIN_EXTENT * 0.5
        if layout.shapes:
            top = layout.shapes[-1]
            assert (owners[top.mask(layout.height, layout.width)] == 1).all()
        several += len(instances) > 1
    assert several > 20


def test_occlusion_happens_and_splits_objects():
    hidden = split = 0
    for layout in layouts(80, 200):
        for instance, shape in zip(layout.instances(), [s for s in layout.shapes if not s.crowd], strict=False):
            full = shape.mask(layout.height, layout.width)
            hidden += instance.mask.sum() < 0.9 * full.sum()
            pieces = [cv2.connectedComponents(m.astype(np.uint8))[0] - 1 for m in (instance.mask, full)]
            split += pieces[0] > pieces[1]
    assert hidden >= 15
    assert split >= 3


def test_schedule_of_empty_images_crowds_and_classes():
    for split in shapes.SPLITS:
        for index, layout in enumerate(layouts(40, 96, split)):
            instances = layout.instances()
            assert (not instances) == (index % 10 == 9)
            assert any(instance.crowd for instance in instances) == (index % 20 == 4)
            assert sum(instance.crowd for instance in instances) <= 1
            if instances:
                assert instances[0].label == index % 8
                assert not instances[0].crowd


def test_sizes_cover_coco_and_all_levels_of_an_fpn():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    areas, boxes = [], []
    for layout in layouts(160, 640):
        for instance in layout.instances():
            if instance.crowd:
                continue
            areas.append(int(instance.mask.sum()))
            y, x = np.nonzero(instance.mask)
            boxes.append([0, x.min(), y.min(), x.max() + 1, y.max() + 1])
    small, medium, large = np.histogram(areas, [0, 32**2, 96**2, 1e9])[0] / len(areas)
    assert small > 0.08
    assert medium > 0.3
    assert large > 0.2
    extractor = SingleRoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2), out_channels=1, featmap_strides=[4, 8, 16, 32]
    )
    levels = extractor.map_roi_levels(torch.tensor(boxes, dtype=torch.float32), 4)
    counts = torch.bincount(levels, minlength=4)
    assert (counts >= 4).all(), counts


def test_an_image_depends_on_nothing_but_its_own_numbers():
    def pixels(index: int, split: str = 'val', seed: int = 5) -> np.ndarray:
        rng = scene_rng(seed, split, index)
        return paint(arrange(rng, index, 96), rng)

    forwards = [pixels(index) for index in range(6)]
    backwards = [pixels(index) for index in reversed(range(6))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(pixels(0), pixels(0, split='train'))
    assert not np.array_equal(pixels(0), pixels(0, seed=6))
    assert len({image.tobytes() for image in forwards}) == 6


def test_textures_and_clutter():
    """Objects are not flat and the background is not either."""
    flat_objects = 0
    total = 0
    for index in range(20):
        rng = scene_rng(0, 'train', index)
        layout = arrange(rng, index, 128)
        image = paint(layout, rng)
        assert image.dtype == np.uint8
        assert image.shape == (layout.height, layout.width, 3)
        background = np.ones(image.shape[:2], dtype=bool)
        for instance in layout.instances():
            background &= ~instance.mask
            total += 1
            flat_objects += image[instance.mask].std(axis=0).max() < 10
        assert image[background].std(axis=0).max() > 4
    assert flat_objects < 0.4 * total
