"""What others published of the backbones in ``configs/``: accuracies, sizes, latencies, each with its source.

The figures are in ``published.json``, one row per figure. Nothing in it was measured by this project. Our own
configurations are a reconstruction of TRT-ViT and not trained: the rows of ``trtvit-*`` are those of its authors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmtrtvit.errors import UserError

#: The data file.
FILE = Path(__file__).with_suffix('.json')
SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Where figures are from.

    Attributes:
        key: Its name in the file.
        title: Of the paper or the model zoo.
        where: Table, figure or file in it.
        url: Of it.
        measured_by: Whose measurement it is.
        note: What must be known of all its figures; '' for nothing.
        package: The installed package that carries it as a metafile; '' for none.
        metafile: Path of that metafile in the package; '' for none.
    """

    key: str
    title: str
    where: str
    url: str
    measured_by: str
    note: str = ''
    package: str = ''
    metafile: str = ''

    @property
    def text(self) -> str:
        """Title and place on one line."""
        return f'{self.title}, {self.where}'


@dataclass(frozen=True)
class Metric:
    """What was measured.

    Attributes:
        key: Its name in the file.
        label: In words, with data set, head, input and hardware.
        unit: '%', 'M' (parameters), 'GFLOPs' (a multiply-add as one) or 'ms'.
        tasks: Tasks of a benchmark row that it may stand against.
    """

    key: str
    label: str
    unit: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        backbone: Key of the backbone: ``twins-svt-s``.
        metric: What was measured.
        value: In the metric's unit.
        source: Where it is from.
        entry: Name of the model in the source's metafile; '' where there is none.
        note: What must be known beside it, the source's note included.
    """

    backbone: str
    metric: Metric
    value: float
    source: Source
    entry: str = ''
    note: str = ''


@dataclass(frozen=True)
class Claim:
    """What a paper claims in words."""

    text: str
    source: Source


@dataclass(frozen=True)
class PublishedFigures:
    """The whole file.

    Attributes:
        names: The backbones as their authors write them, by key.
        metrics: By key.
        sources: By key.
        figures: All rows; of several of one backbone and metric the first is preferred.
        claims: Of TRT-ViT's abstract.
    """

    names: dict[str, str]
    metrics: dict[str, Metric]
    sources: dict[str, Source]
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]

    def find(self, backbone: str, metric: str) -> Figure | None:
        """Return the preferred figure, None if there is none.

        Raises:
            KeyError: There is no such metric.
        """
        wanted = self.metrics[metric]
        return next((row for row in self.figures if row.backbone == backbone and row.metric is wanted), None)

    def preferred(self, metric: str) -> tuple[Figure, ...]:
        """Return the preferred figure of every backbone that has one."""
        found = [self.find(backbone, metric) for backbone in self.names]
        return tuple(row for row in found if row is not None)

    def from_source(self, metric: str, source: str) -> tuple[Figure, ...]:
        """Return a metric's figures from one source, which are comparable with each other."""
        return tuple(row for row in self.figures if row.metric.key == metric and row.source.key == source)


def load_published(file: Path = FILE) -> PublishedFigures:
    """Read the published figures.

    Args:
        file: Another file of the same schema.

    Raises:
        UserError: The file cannot be read, is of another schema, or a row names what is not there.
    """
    return _load(file)


@cache
def _load(file: Path) -> PublishedFigures:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: no file of published figures: {error}') from error
    if not isinstance(content, dict) or content.get('schema') != SCHEMA:
        raise UserError(f'{file}: its schema is not {SCHEMA}: this version of mmtrtvit reads no other')
    try:
        metrics = {
            key: Metric(key, value['label'], value['unit'], tuple(value['tasks']))
            for key, value in content['metrics'].items()
        }
        sources = {key: Source(key, **value) for key, value in content['sources'].items()}
        names = {key: value['name'] for key, value in content['backbones'].items()}
        figures = tuple(_figure(row, names, metrics, sources) for row in content['rows'])
        claims = tuple(Claim(claim['text'], sources[claim['source']]) for claim in content['claims'])
    except (KeyError, TypeError) as error:
        raise UserError(f'{file}: {error} is missing or not known') from error
    return PublishedFigures(names, metrics, sources, figures, claims)


def _figure(
    row: dict[str, Any], names: dict[str, str], metrics: dict[str, Metric], sources: dict[str, Source]
) -> Figure:
    names[row['backbone']]  # a KeyError names a backbone that is not listed
    source = sources[row['source']]
    note = '; '.join(part for part in (row.get('note', ''), source.note) if part)
    return Figure(row['backbone'], metrics[row['metric']], float(row['value']), source, row.get('entry', ''), note)
