"""Published figures as a report needs them: flat, one a backbone and metric, each with its source in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmtrtvit.benchmark.published import PublishedFigures
from mmtrtvit.benchmark.report.content import Group
from mmtrtvit.benchmark.results import Row

__all__ = ['RECONSTRUCTION', 'Quoted', 'is_ours', 'note_of', 'quoted', 'rank']

RECONSTRUCTION = "TRT-ViT here is a reconstruction that we have not trained; its accuracies are the paper's, not ours"


@dataclass(frozen=True)
class Quoted:
    """One published figure of a backbone.

    Attributes:
        backbone: As ``Row.backbone`` has it.
        name: The backbone as its authors write it.
        metric: What was measured, on what, with which head: the label of an axis.
        unit: ``%`` or ``ms``.
        tasks: The tasks of rows that it may stand against.
        value: In that unit.
        source: Where it is from: paper and table.
        url: Of the source; '' for none.
        note: What must be known beside it.
    """

    backbone: str
    name: str
    metric: str
    unit: str
    tasks: tuple[str, ...]
    value: float
    source: str
    url: str = ''
    note: str = ''


def quoted(published: PublishedFigures, rows: Iterable[Row]) -> list[Quoted]:
    """The accuracies and latencies of the backbones of rows, metric by metric; of several of one the preferred.

    Those of tasks that no row has are left out, except ImageNet's.
    """
    kept = list(rows)
    wanted, tasks = {row.backbone for row in kept}, {'classification', *(row.task for row in kept)}
    return [
        Quoted(
            figure.backbone,
            published.names[figure.backbone],
            metric.label,
            metric.unit,
            metric.tasks,
            figure.value,
            figure.source.text,
            figure.source.url,
            figure.note,
        )
        for metric in published.metrics.values()
        if metric.unit in ('%', 'ms') and tasks & set(metric.tasks)
        for figure in published.preferred(metric.key)
        if figure.backbone in wanted
    ]


def rank(entry: Quoted, group: Group) -> int | None:
    """How well an accuracy fits what was timed: 0 with its own head, 1 of its task, 2 ImageNet's; None not at all."""
    own = group.row.task in entry.tasks
    if own and any(_head(row) in _letters(entry.metric) for row in group.measured if _head(row)):
        return 0
    if own:
        return 1
    return 2 if 'classification' in entry.tasks else None


def is_ours(backbone: str) -> bool:
    """Whether a backbone is a TRT-ViT."""
    return backbone.startswith('trtvit')


def note_of(rows: Iterable[Row]) -> str:
    """What accuracy and latency on one plot are, in words."""
    random = {row.weights == 'random' for row in rows}
    weights = {True: 'random weights', False: 'trained weights'}
    how = weights[random.pop()] if len(random) == 1 else 'random weights in part'
    return f'accuracy: published by others, see sources; latency: measured here with {how}'


def _head(row: Row) -> str:
    """``maskrcnn`` of ``mask_rcnn_swin-t``."""
    return _letters(row.model.replace(row.backbone, '')) if row.backbone else ''


def _letters(text: str) -> str:
    return re.sub(r'[^a-z0-9]', '', text.lower())
