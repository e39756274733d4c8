"""docs/peers.md against the configs: a row for every backbone, the counts those of the tool, the figures those of
published.json; and every peer has all its configs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmtrtvit.apis.flops import complexity
from mmtrtvit.benchmark.models import backbone_of, known_models
from mmtrtvit.benchmark.published import load_published

DOCUMENT = (Path(__file__).parents[2] / 'docs' / 'peers.md').read_text(encoding='utf-8')
ROW = re.compile(r'^\| `(\S+)` \|(.*)\|$', re.M)
ROWS = {match[1]: [cell.strip() for cell in match[2].split('|')] for match in ROW.finditer(DOCUMENT)}
PUBLISHED = load_published()
DENSE = ('mask_rcnn', 'retinanet', 'semantic_fpn', 'upernet')
#: One resolution throughout, or stride 16 at the end.
CLASSIFIERS = {'t2t-vit-14', 'cvt-13', 'cvt-21'}
#: Columns behind the counts, and what they show.
COLUMNS = ('params', 'gflops', 'imagenet_top1', 'coco_mask_rcnn_1x_box_ap', 'ade20k_semantic_fpn_miou')
#: Counted without ``--slow``.
QUICK = {'resnet-50', 'vanillanet-9'}


@pytest.mark.parametrize('backbone', PUBLISHED.names)
def test_every_backbone_has_all_its_configs(backbone: str) -> None:
    configs = {stem for stem in known_models() if backbone_of(stem) == backbone}
    short = backbone.removesuffix('-c') if backbone == 'trtvit-c' else backbone
    expected = {f'{short}_imagenet'}
    if backbone not in CLASSIFIERS:
        expected |= {f'{task}_{short}' for task in DENSE}
    assert {stem for stem in configs if not stem.endswith('_3x')} == expected


def test_the_document_has_a_row_for_every_backbone() -> None:
    assert list(ROWS) == list(PUBLISHED.names)


@pytest.mark.parametrize('backbone', PUBLISHED.names)
def test_the_figures_of_the_document_are_the_published_ones(backbone: str) -> None:
    for column, cell in zip(COLUMNS, ROWS[backbone][3:], strict=True):
        figure = PUBLISHED.find(backbone, column)
        if figure is None:
            assert cell == ''
            continue
        value, source = re.fullmatch(r'([\d.]+) \[(\d+)\]', cell).groups()  # type: ignore[union-attr]
        assert float(value) == figure.value
        line = re.search(rf'^{source}\. (.*)$', DOCUMENT, re.M)
        assert line is not None
        assert line[1].startswith(f'{figure.source.text}: <{figure.source.url}>')


@pytest.mark.parametrize(
    'backbone', [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PUBLISHED.names]
)
def test_the_counts_of_the_document_are_those_of_the_tool(backbone: str) -> None:
    if backbone.startswith(('nextvit', 'regnety')):
        pytest.importorskip('timm', reason='timm is not installed (extra benchmark)')
    stem = 'trtvit_imagenet' if backbone == 'trtvit-c' else f'{backbone}_imagenet'
    counted = complexity(Config.fromfile(str(known_models()[stem])), (224, 224)).model
    assert ROWS[backbone][1:3] == [f'{counted.params / 1e6:.2f}', f'{counted.flops / 1e9:.2f}']
