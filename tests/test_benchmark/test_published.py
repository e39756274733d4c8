"""The published figures: complete, of our configs, in range, and those of the metafiles where these are installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import mmengine
import pytest

from mmtrtvit.benchmark.models import backbone_of, known_models
from mmtrtvit.benchmark.published import FILE, Figure, load_published
from mmtrtvit.errors import UserError

PUBLISHED = load_published()
#: What a figure can be at all.
RANGES = {'%': (30, 90), 'M': (5, 150), 'GFLOPs': (1, 1100), 'ms': (5, 200)}
#: Where a metafile keeps a figure, and in which unit.
IN_METAFILE = {
    'imagenet_top1': ('Top 1 Accuracy', 1.0), 'params': ('Parameters', 1e6), 'gflops': ('FLOPs', 1e9),
    'coco_mask_rcnn_1x_box_ap': ('box AP', 1.0), 'coco_mask_rcnn_1x_mask_ap': ('mask AP', 1.0),
    'coco_retinanet_1x_box_ap': ('box AP', 1.0), 'ade20k_semantic_fpn_miou': ('mIoU', 1.0),
    'ade20k_upernet_miou': ('mIoU', 1.0),
}  # fmt: skip


def test_every_backbone_is_one_of_our_configs() -> None:
    assert {backbone_of(stem) for stem in known_models()} == set(PUBLISHED.names)
    assert {row.backbone for row in PUBLISHED.figures} <= set(PUBLISHED.names)


def test_every_row_has_a_source_and_a_sane_value() -> None:
    assert len(PUBLISHED.figures) > 150
    for row in PUBLISHED.figures:
        low, high = RANGES[row.metric.unit]
        assert low <= row.value <= high, row
        assert row.source.title, row
        assert row.source.measured_by, row
        assert row.source.url.startswith('https://'), row
        assert row.metric.tasks, row
    keys = [(row.backbone, row.metric.key, row.source.key, row.entry) for row in PUBLISHED.figures]
    assert len(set(keys)) == len(keys)
    used = {row.source.key for row in PUBLISHED.figures} | {claim.source.key for claim in PUBLISHED.claims}
    assert used == set(PUBLISHED.sources)


def in_metafile(row: Figure) -> float:
    package = importlib.util.find_spec(row.source.package)
    assert package is not None
    assert package.origin is not None
    models = mmengine.load(Path(package.origin).parent / row.source.metafile)['Models']
    (model,) = [model for model in models if model['Name'] == row.entry]
    results = model['Results'] if isinstance(model['Results'], list) else [model['Results']]
    figures: dict[str, Any] = dict(model.get('Metadata', {}))
    for result in results:
        figures.update(result['Metrics'])
    name, unit = IN_METAFILE[row.metric.key]
    return float(figures[name]) / unit


@pytest.mark.parametrize('source', [key for key, source in PUBLISHED.sources.items() if source.metafile])
def test_figures_of_a_metafile_are_those_of_the_metafile(source: str) -> None:
    if importlib.util.find_spec(PUBLISHED.sources[source].package) is None:
        pytest.skip(f'{PUBLISHED.sources[source].package} is not installed')
    rows = [row for row in PUBLISHED.figures if row.source.key == source]
    assert rows
    for row in rows:
        assert row.value == pytest.approx(in_metafile(row), abs=0.005), row


def test_nothing_is_said_to_be_trained_here() -> None:
    backbones = json.loads(FILE.read_text(encoding='utf-8'))['backbones']
    assert not any(entry['trained_here'] for entry in backbones.values())
    assert {key for key, entry in backbones.items() if entry.get('reconstruction')} == {
        'trtvit-a', 'trtvit-b', 'trtvit-c', 'trtvit-d'
    }  # fmt: skip
    for row in PUBLISHED.figures:
        if row.backbone.startswith('trtvit'):
            assert row.source.measured_by.startswith('the authors of')


def test_the_figures_of_the_paper_are_there() -> None:
    """docs/results.md quotes some of these; the whole comparison of Next-ViT's tables has one source."""
    box_ap = PUBLISHED.from_source('coco_mask_rcnn_1x_box_ap', 'next-vit-paper')
    assert {row.backbone: row.value for row in box_ap} == {
        'resnet-101': 40.4, 'poolformer-s24': 40.1, 'swin-t': 42.2, 'twins-svt-s': 43.4, 'pvtv2-b2': 45.3,
        'trtvit-c': 44.7,
    }  # fmt: skip
    assert all('second-hand' in row.note for row in box_ap)
    found = PUBLISHED.find('trtvit-c', 'imagenet_top1')
    assert found is not None
    assert found.value == 82.7
    assert 'figure' in found.note
    assert PUBLISHED.find('trtvit-a', 'imagenet_top1') is None
    assert [claim.source.url for claim in PUBLISHED.claims] == ['https://arxiv.org/abs/2205.09579'] * 2


def test_one_preferred_figure_a_backbone() -> None:
    rows = PUBLISHED.preferred('imagenet_top1')
    assert len({row.backbone for row in rows}) == len(rows) >= 30
    missing = set(PUBLISHED.names) - {row.backbone for row in rows}
    assert missing == {'trtvit-a', 'trtvit-b'}


@pytest.mark.parametrize(
    ('content', 'error'),
    [
        ('{', 'no file of published figures'),
        ('{"schema": 2}', 'its schema is not 1'),
        ('{"schema": 1}', "'metrics' is missing or not known"),
    ],
)
def test_another_file_is_refused_readably(content: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    file.write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=rf'figures\.json: .*{error}'):
        load_published(file)
