"""Made-up runs with everything that a report must cope with."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from mmtrtvit.benchmark.published import Claim, Figure, Metric, PublishedFigures, Source
from mmtrtvit.benchmark.results import Ratio, Results, Row, Timing

HOSTILE = '<script>document.title="hacked"</script>|`*_[x](javascript:alert(1))$\\frac{a}${{7*7}}&amp;"\''

#: Backbone, params M, GFLOPs, milliseconds.
BACKBONES = {
    'trtvit-c': (66.0, 5.9, 118.0),
    'trtvit-d': (103.2, 9.6, 176.0),
    'resnet-50': (25.6, 4.1, 92.0),
    'resnet-101': (44.5, 7.8, 151.0),
    'twins-svt-s': (24.0, 2.9, 187.0),
    'twins-svt-b': (56.0, 8.6, 223.0),
    'twins-pcpvt-b': (43.8, 6.7, 191.0),
    'swin-t': (28.3, 4.5, 181.0),
    'convnext-t': (28.6, 4.5, 173.0),
    'poolformer-s24': (21.4, 3.4, 190.0),
    'pvtv2-b2': (25.4, 4.0, 246.0),
    'cswin-t': (23.0, 4.3, 260.0),
    'next-vit-s': (31.7, 5.8, 121.0),
}
TOP1 = {
    'trtvit-c': 82.7, 'trtvit-d': 83.4, 'resnet-50': 79.0, 'resnet-101': 80.8, 'twins-svt-s': 81.7,
    'twins-svt-b': 83.2, 'twins-pcpvt-b': 82.7, 'swin-t': 81.2, 'convnext-t': 82.1, 'poolformer-s24': 80.3,
    'pvtv2-b2': 82.0, 'cswin-t': 82.7, 'next-vit-s': 82.5,
}  # fmt: skip
BOX_AP = {
    'trtvit-c': 44.7, 'resnet-101': 40.4, 'twins-svt-s': 43.4, 'swin-t': 42.2, 'poolformer-s24': 40.1,
    'pvtv2-b2': 45.3, 'next-vit-s': 45.9,
}  # fmt: skip

CONDITIONS: dict[str, Any] = {
    'hardware': {'cpu': 'Example CPU @ 2.0 GHz', 'cores': 2, 'memory_gib': 7.8},
    'versions': {'mmtrtvit': '1.0', 'torch': '2.14.1', 'onnxruntime': '1.31.1'},
    'before': {'load_average': 0.21, 'cpu_mhz': 2000},
    'after': {'load_average': 1.93, 'cpu_mhz': 1990},
    'others_busy_cores': 0.04,
}
GPU_CONDITIONS: dict[str, Any] = {
    **CONDITIONS,
    'hardware': {
        **CONDITIONS['hardware'],
        'gpu': 'Example GPU 9000',
        'compute_capability': '9.0',
        'gpu_memory_gib': 139.8,
        'driver': '600.12.34',
    },
    'before': {'load_average': 0.2, 'gpu': {'clocks.sm': '1980', 'temperature.gpu': '41', 'power.draw': '120.1'}},
}


def make_row(backbone: str = 'trtvit-c', **changes: Any) -> Row:
    """A measured row of ONNX Runtime's; ``ms`` is its latency."""
    milliseconds = changes.pop('ms', 100.0)
    spread = changes.pop('spread', 0.02)
    rounds = [milliseconds * (1 + spread * k / 4) for k in (-2, -1, 0, 1, 2)]
    values: dict[str, Any] = dict(
        model=f'mask_rcnn_{backbone}', config=f'configs/mask_rcnn_{backbone}.py', backbone=backbone,
        task='instance-segmentation', part='backbone', backend='onnxruntime', backend_version='1.31.1', device='cpu',
        precision='fp32', input_shape=[1, 3, 512, 512], inside='the backbone alone; no copy, no pre-processing',
        precision_obtained='fp32', precision_share=1.0, threads=2, wall=Timing.of(rounds), rounds_ms=rounds,
        images_per_second=1000 / milliseconds, params=66_000_000, gflops=30.5, nodes=602, engine_bytes=264 * 2**20,
        peak_memory_mib=812.0, memory='growth of the process, MiB', build_seconds=3.2,
    )  # fmt: skip
    return Row(**{**values, **changes})


def make_results(rows: list[Row], **changes: Any) -> Results:
    """A calm run on a CPU."""
    values: dict[str, Any] = dict(
        command='python tools/benchmark.py --models mask_rcnn_trtvit --out work_dirs/benchmark',
        date='2026-02-03T04:05:06+00:00', conditions=CONDITIONS, rounds=5, warmup=2, calls=1,
    )  # fmt: skip
    return Results(rows=rows, **{**values, **changes})


def cpu_run() -> Results:
    """Backbones, whole detectors with breakdown, classifiers; noisy rows, failed rows, hostile names."""
    generator = random.Random(3)
    rows = []
    for backbone, (params, gflops, milliseconds) in BACKBONES.items():
        own: dict[str, Any] = dict(params=int(params * 1e6), gflops=gflops * 5.2)
        rows.append(make_row(backbone, ms=milliseconds, spread=0.02 + 0.1 * generator.random(), **own))
        share = generator.uniform(0.6, 1.3)
        spent = dict(zip(PARTS, (milliseconds, 60, 170, 31 * share, 24 * share, 40, 3, 0.8, 12), strict=True))
        whole = dict(part='end2end', breakdown=spent, inside='pre-processed image to boxes, labels, masks', **own)
        rows.append(make_row(backbone, ms=1.03 * sum(spent.values()), **whole))
        small = dict(task='classification', input_shape=[1, 3, 224, 224], model=f'{backbone}_imagenet', part='end2end')
        rows.append(make_row(backbone, ms=milliseconds / 4.7, **{**own, **small}))
    base = next(row for row in rows if row.backbone == 'twins-svt-s')
    for row in rows:
        if row.part == base.part and row is not base:
            row.ratio = Ratio.of(base.model, base.rounds_ms, row.rounds_ms)
    rows[3].noise = 'the 10th and 90th percentile lie 31% of the median apart'
    rows[12].noise = HOSTILE
    rows.append(make_row('t2t-14', model=HOSTILE, ms=141.0, noise='', threads=2))
    rows.append(
        make_row('cvt-13', wall=None, rounds_ms=[], images_per_second=None, error=f'RuntimeError: {HOSTILE}\nat')
    )
    return make_results(rows, noise=['other processes kept 0.4 of 2 cores busy during the rounds'])


PARTS = ('backbone', 'neck', 'heads', 'NMS', 'RoIAlign', 'mask head', 'masks', 'output', 'other')


def gpu_run() -> Results:
    """TensorRT in fp16 on a GPU, one engine of which fell back to fp32; interrupted."""
    rows = []
    for backbone, (params, gflops, milliseconds) in BACKBONES.items():
        wall = [milliseconds / 60 * factor for factor in (1.0, 1.01, 1.05)]
        rows.append(
            make_row(
                backbone, backend='tensorrt', backend_version='10.16.0', device='cuda:0', precision='fp16',
                precision_obtained='fp16', precision_share=0.97, input_shape=[8, 3, 800, 1344], threads=None,
                wall=Timing.of(wall), device_time=Timing.of([0.93 * value for value in wall]), layers=402,
                params=int(1e6 * params), gflops=gflops * 20, rounds_ms=wall, images_per_second=8000 / wall[1],
            )
        )  # fmt: skip
    rows[2].precision_obtained, rows[2].precision_share = 'fp32', 0.12
    rows.append(dataclasses.replace(rows[0], model='mask_rcnn_vanillanet', backbone='vanillanet', wall=None))
    rows[-1].device_time, rows[-1].rounds_ms, rows[-1].error = None, [], 'interrupted before it was measured'
    return make_results(rows, conditions=GPU_CONDITIONS, interrupted=True, date='2026-03-04T05:06:07+00:00')


def block_run() -> Results:
    """Stacks of blocks."""
    rows = []
    for kind, speed in (
        ('BottleNeck', 9.0),
        ('Transformer', 3.1),
        ('MixBlockA', 5.2),
        ('MixBlockC', 5.9),
        ('LSA', 2.0),
    ):
        for stage, (width, side) in enumerate(((256, 56), (512, 28), (1024, 14), (1536, 7)), 1):
            if (kind, stage) == ('Transformer', 1):
                continue
            one = dict(block_ms=1.05, block_p10_ms=1.0, block_p90_ms=1.1, block_params=70_000, block_gflops=0.218)
            extra = dict(
                stage=stage, blocks=8, **one, teraflops=speed * stage**0.3 / 10, teraparams=speed * 1e-5 * 3**stage
            )
            shape = [8, width, side, side]
            block = dict(model=kind, task='block', part='block', input_shape=shape, extra=extra)
            rows.append(make_row('', ms=80 / speed / stage, **block))
    return make_results(rows)


def published() -> PublishedFigures:
    """A few published figures, one of them hostile."""
    dense = ('detection', 'instance-segmentation')
    top1 = Metric('top1', 'ImageNet-1k top-1', '%', ('classification',))
    box = Metric('box', 'COCO box AP (Mask R-CNN 1x)', '%', dense)
    latency = Metric('latency', 'Latency of the backbone: TensorRT on another GPU', 'ms', dense)
    params = Metric('params', 'Parameters', 'M', ('classification',))
    paper = Source('paper', 'Next-ViT', 'table 5', 'https://arxiv.org/abs/2207.05501', 'its authors')
    hostile = Source('hostile', HOSTILE, HOSTILE, 'javascript:alert(1)', HOSTILE)
    figures = [Figure(key, top1, value, paper) for key, value in TOP1.items()]
    figures += [Figure(key, box, value, paper, note='second-hand') for key, value in BOX_AP.items()]
    figures += [Figure('trtvit-c', latency, 40.6, paper), Figure('trtvit-c', params, 67.3, paper)]
    figures.append(Figure('t2t-14', top1, 81.5, hostile, note=HOSTILE))
    names = {key: key.upper() for key in BACKBONES} | {'t2t-14': HOSTILE}
    claim = Claim(f'2.8x Twins {HOSTILE}', paper)
    metrics = {metric.key: metric for metric in (top1, box, latency, params)}
    return PublishedFigures(names, metrics, {'paper': paper, 'hostile': hostile}, tuple(figures), (claim,))
