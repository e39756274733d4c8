"""The zoo as TensorRT-RTX engines, built without a GPU: bindings and precision. See ``zoo.py`` for the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrtvit.deploy.graphs import UnsupportedModelError
from tests.test_configs.test_zoo import ZOO as NAMES
from tests.test_deploy import zoo
from tests.test_deploy.zoo import FULL, Built, build_one

pytest.importorskip('tensorrt_rtx_bindings', reason='TensorRT-RTX is not installed')

#: TRT-ViT and one Twins of each task.
QUICK = (
    'trtvit/retinanet_trtvit-a.py', 'twins/retinanet_twins-svt-s.py',
    'trtvit/mask_rcnn_trtvit-a.py', 'twins/mask_rcnn_twins-svt-s.py',
    'trtvit/semantic_fpn_trtvit-a.py', 'twins/semantic_fpn_twins-svt-s.py',
    'trtvit/trtvit-a_imagenet.py', 'twins/twins-svt-s_imagenet.py',
)  # fmt: skip

#: Of few layers on purpose, 33 and 36, with no neck and no head that would add some.
SHALLOW = ('vanillanet/vanillanet-9_imagenet.py', 'vanillanet/vanillanet-10_imagenet.py')


def assert_bindings(built: Built) -> None:
    """The engine's inputs and outputs are those of docs/deployment.md, float32 in every precision."""
    graph = built.graph
    height, width = graph.options.shape
    rows, size = graph.max_dets, graph.mask_size
    expected = {
        'detection': {
            'boxes': ('float32', (1, rows, 4)), 'scores': ('float32', (1, rows)), 'labels': ('int64', (1, rows)),
            'num_dets': ('int64', (1,)), 'exact': ('bool', (1,)),
        },
        'segmentation': {'label_map': ('int64', (1, height, width))},
        'classification': {'scores': ('float32', (1, 1000))},
    }  # fmt: skip
    expected['instance-segmentation'] = {**expected['detection'], 'masks': ('float32', (1, rows, size, size))}
    for report in built.engines.values():
        assert [(spec.name, spec.dtype, spec.shape) for spec in report.inputs] == [
            ('image', 'float32', (1, 3, height, width))
        ]
        assert {spec.name: (spec.dtype, spec.shape) for spec in report.outputs} == expected[graph.task]
        assert [spec.name for spec in report.outputs] == list(graph.output_names)


def assert_precision(built: Built, more_than: int = 50) -> None:
    """The engine is no stub; products are all fp32 where that is asked for, most are fp16 where that is."""
    products = sum(built.export.operators.get(kind, 0) for kind in ('Conv', 'ConvTranspose', 'Gemm', 'MatMul'))
    for precision, report in built.engines.items():
        assert report.precision_asked == precision
        assert report.precision_obtained == precision
        assert report.precision_share >= {'fp32': 1.0, 'fp16': 0.5}[precision]
        assert report.layers > more_than
        assert report.layers >= products > 10  # the network is read before layers are fused
        assert Path(report.engine).stat().st_size == report.engine_bytes
    if len(built.engines) == 2:
        assert built.engines['fp16'].engine_bytes < 0.75 * built.engines['fp32'].engine_bytes


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_every_model_becomes_an_engine(name: str, short_lived_path: Path, request: pytest.FixtureRequest) -> None:
    built = build_one(name, short_lived_path, reduced=name in QUICK and not request.config.getoption('--slow'))
    assert_bindings(built)
    assert_precision(built, more_than=30 if name in SHALLOW else 50)


@pytest.mark.slow
def test_mask_rcnn_at_full_size(short_lived_path: Path) -> None:
    name, height, width = FULL
    built = build_one(name, short_lived_path, (height, width))
    assert_bindings(built)
    assert_precision(built)
    assert built.graph.max_dets == 100


def test_every_task_is_among_the_quick_ones() -> None:
    assert set(NAMES) >= set(QUICK)
    assert sum('twins' in name for name in QUICK) == 4


def test_records_and_their_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(zoo.REPORT, str(tmp_path / 'report'))
    seen: list[str] = []

    def broken(*arguments: object) -> Built:
        (record,) = (tmp_path / 'report').glob('*.json')
        seen.append(json.loads(record.read_text())['error'])
        raise UnsupportedModelError('no | graph')

    monkeypatch.setattr(zoo, '_build', broken)
    with pytest.raises(UnsupportedModelError):
        build_one('trtvit/retinanet_trtvit-a.py', tmp_path)
    assert seen == ['interrupted']
    record = zoo.Record('b.py', 64, 96, '', 20, 10, 1.5, 2048, {
        'fp32': dict(layers=7, mib=2.5, seconds=3.0, share=1.0),
        'fp16': dict(layers=8, mib=1.5, seconds=4.0, share=0.9),
    })  # fmt: skip
    zoo._keep(record)
    assert zoo.table(tmp_path / 'report').splitlines()[2:] == [
        '| `b` | 64 x 96 | fp32, fp16 | 10 | 7 / 8 | 2.5 / 1.5 | 1.5 | 3 / 4 | 2.0 |',
        '| `trtvit/retinanet_trtvit-a` | 128 x 128 | no: no / graph | | | | | | |',
        '',
        '1 of 2 built.',
    ]
