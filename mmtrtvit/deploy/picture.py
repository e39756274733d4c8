"""The library's prediction and the backend's, side by side on one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmtrtvit.apis.contact_sheet import Group, Panel, Pixels, compose
from mmtrtvit.apis.visualize import as_in_testing, det_visualizer, paint_instances, paint_map
from mmtrtvit.deploy.ops.masks import paste_masks
from mmtrtvit.fileio import atomic_write_bytes

CELL = 560
"""Longer side of an image on the picture, pixels."""
SCORE = 0.3
"""Detections that score less are not drawn; where none scores as much, the best ten are."""
BEST = 10

Outputs = Mapping[str, Tensor]


def draw_side_by_side(
    path: str | Path,
    image: Pixels,
    sides: Sequence[tuple[str, Outputs]],
    classes: Sequence[str],
) -> Path:
    """Draw the first image of a batch as each side sees it.

    Args:
        path: The ``.png`` to write.
        image: uint8 ``(h, w, 3)``, RGB: the part of the canvas that is image.
        sides: Heading and outputs of each, in the contract's tensors, pixels of the canvas.
        classes: Names of the classes; numbers stand in for missing ones.
    """
    panels = []
    for _, outputs in sides:
        if 'boxes' in outputs:
            panels.append(_detections(image, outputs, classes))
        elif 'label_map' in outputs or 'logits' in outputs:
            panels.append(_label_map(image, outputs, classes))
        else:
            panels.append(_classes(image, outputs['scores'], classes))
    sheet = compose([heading for heading, _ in sides], [Group(panels)], CELL, 1)
    _, data = cv2.imencode('.png', sheet[:, :, ::-1])
    return atomic_write_bytes(path, bytes(data))


def _detections(image: Pixels, outputs: Outputs, classes: Sequence[str]) -> Panel:
    height, width = image.shape[:2]
    count = int(outputs['num_dets'][0])
    scores = outputs['scores'][0, :count]
    keep = int((scores >= SCORE).sum()) or min(BEST, count)
    found = InstanceData()
    found.bboxes = outputs['boxes'][0, :keep].cpu()
    found.labels = outputs['labels'][0, :keep].cpu()
    found.label_names = [
        f'{_name(classes, int(label))} {float(score):.2f}'
        for label, score in zip(found.labels, scores[:keep], strict=True)
    ]
    if 'masks' in outputs and keep:
        found.masks = torch.as_tensor(paste_masks(outputs['masks'][0, :keep].cpu(), found.bboxes, height, width)).bool()
    with as_in_testing(None):  # mask colours come from numpy's generator: the same on both sides
        painted = paint_instances(det_visualizer(), image, found, CELL)
    return Panel(painted, f'{keep} of {count} detections')


def _label_map(image: Pixels, outputs: Outputs, classes: Sequence[str]) -> Panel:
    from mmseg.visualization import SegLocalVisualizer

    whole = outputs['label_map'][0] if 'label_map' in outputs else outputs['logits'][0].argmax(0)
    labels = whole[: image.shape[0], : image.shape[1]].cpu().numpy()
    number = max(len(classes), int(labels.max()) + 1)
    visualizer: Any = SegLocalVisualizer(name='deploy', alpha=0.6)
    colours = np.random.default_rng(7).integers(0, 256, (number, 3)).tolist()
    visualizer.dataset_meta = {'classes': [_name(classes, k) for k in range(number)], 'palette': colours}
    values, counts = np.unique(labels, return_counts=True)
    largest = [_name(classes, int(value)) for value in values[np.argsort(-counts)][:4]]
    return Panel(paint_map(visualizer, image, labels, CELL), ', '.join(largest))


def _classes(image: Pixels, scores: Tensor, classes: Sequence[str]) -> Panel:
    best = scores[0].topk(min(3, scores.shape[1]))
    text = ', '.join(f'{_name(classes, int(k))} {float(v):.3f}' for v, k in zip(best.values, best.indices, strict=True))
    return Panel(image, text)


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)
