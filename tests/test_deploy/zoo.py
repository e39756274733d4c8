"""Every model config of the zoo as a TensorRT-RTX engine: the build, its record on disk, the table of records.

With ``MMTRTVIT_ZOO_REPORT=FOLDER`` in the environment each build leaves one JSON file in that folder, written before it
begins (as not built) and again when it has ended: what was interrupted keeps what it has, two processes do not meet.

    python -m tests.test_deploy.zoo FOLDER

prints the table of docs/deployment.md from them.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmtrtvit.apis.model import build_model
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.backends import BuildOptions, BuildReport, get_backend
from mmtrtvit.deploy.exporter import ExportReport, export
from mmtrtvit.deploy.graphs import DeployGraph, GraphOptions, build_graph
from mmtrtvit.deploy.ops.nms import NMSOptions
from mmtrtvit.fileio import atomic_write_json

REPORT = 'MMTRTVIT_ZOO_REPORT'
#: Height and width of the canvas by task: the smallest on which every stage of every backbone has several cells.
SMALL = {'mmdet': (128, 128), 'mmseg': (128, 128), 'mmpretrain': (64, 64)}
#: Twins-SVT-S with two blocks a stage, one of windows and one global.
REDUCED_SVT = dict(
    embed_dims=[64, 128, 256, 512], num_heads=[2, 4, 8, 16], mlp_ratios=[4] * 4, depths=[2] * 4, window_sizes=[7] * 4,
    sr_ratios=[8, 4, 2, 1], patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2],
)  # fmt: skip
#: COCO's usual size, for one Mask R-CNN.
FULL = ('mask_rcnn_trtvit.py', 800, 1344)


@dataclass
class Record:
    """What came of one model.

    Attributes:
        model: Name of the config.
        height: Of the canvas, pixels.
        width: Of the canvas, pixels.
        error: Why it was not built, or ''.
        nodes_exported: ONNX nodes before any optimiser.
        nodes: ONNX nodes.
        export_seconds: Wall time of the export.
        peak_memory_mib: The process's peak after the export; of a process that exports several models, an upper bound.
        builds: By precision: ``layers``, ``mib`` (of the engine), ``seconds``, ``share`` (of convolutions and matrix
            products in that precision).
    """

    model: str
    height: int
    width: int
    error: str = 'interrupted'
    nodes_exported: int = 0
    nodes: int = 0
    export_seconds: float = 0.0
    peak_memory_mib: int = 0
    builds: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True)
class Built:
    """One model's graph, its export and its engines by precision."""

    graph: DeployGraph
    export: ExportReport
    engines: dict[str, BuildReport]


def build_one(
    name: str,
    folder: Path,
    size: tuple[int, int] | None = None,
    precisions: tuple[str, ...] = ('fp32', 'fp16'),
    reduced: bool = False,
) -> Built:
    """Export a model with random weights and build its engines; leaves a record where one is asked for.

    Args:
        name: Of a config of the zoo.
        folder: For the files.
        size: Height and width of the canvas; None for :data:`SMALL`.
        precisions: Of the engines.
        reduced: Fewer blocks in Twins and fewer rounds in NMS, each kind still there: a quarter of the time.
    """
    cfg = Config.fromfile(CONFIG_ROOT / name)
    if reduced and cfg.model.backbone.type.endswith('SVT'):
        cfg.model.backbone.arch = REDUCED_SVT
    height, width = size or SMALL[cfg.default_scope]
    record = Record(name, height, width)
    _keep(record)
    try:
        built = _build(cfg, folder, height, width, precisions, 4 if reduced else NMSOptions().rounds)
    except Exception as error:
        record.error = str(error)
        _keep(record)
        raise
    record.error = ''
    record.nodes_exported, record.nodes = built.export.nodes_exported, built.export.nodes
    record.export_seconds = round(built.export.seconds, 1)
    record.peak_memory_mib = built.export.peak_memory_mib
    record.builds = {
        precision: {
            'layers': report.layers,
            'mib': round(report.engine_bytes / 2**20, 1),
            'seconds': round(report.seconds, 1),
            'share': round(report.precision_share, 4),
        }
        for precision, report in built.engines.items()
    }
    _keep(record)
    return built


def _build(cfg: Config, folder: Path, height: int, width: int, precisions: tuple[str, ...], rounds: int) -> Built:
    model, _ = build_model(cfg, 'none')
    options = GraphOptions(height, width, nms=NMSOptions(rounds=rounds))
    graph = build_graph(model, options)
    exported = export(graph, folder / 'fp32.onnx')
    backend, engines = get_backend('tensorrt-rtx'), {}
    for precision in precisions:
        source = exported.path
        if precision == 'fp16':
            from mmtrtvit.deploy.precision import to_fp16

            source = to_fp16(source, folder / 'fp16.onnx').path
        options_of_build = BuildOptions(precision=precision)
        engines[precision] = backend.build(source, folder / f'{precision}.engine', options_of_build)
    return Built(graph, exported, engines)


def _keep(record: Record) -> None:
    folder = os.environ.get(REPORT)
    if folder:
        file = f'{record.model.replace("/", "_")}_{record.height}x{record.width}.json'
        atomic_write_json(Path(folder) / file, asdict(record))


def table(folder: Path) -> str:
    """The records of a folder as Markdown."""
    records = [Record(**json.loads(path.read_text(encoding='utf-8'))) for path in sorted(folder.glob('*.json'))]
    lines = [
        '| model | canvas | built | ONNX nodes | layers fp32 / fp16 | engine MiB | export s | build s | peak GiB |',
        '|---|---|---|---:|---:|---:|---:|---:|---:|',
    ]
    for record in records:
        name = record.model.removesuffix('.py')
        start = f'| `{name}` | {record.height} x {record.width} |'
        if record.error:
            reason = record.error.splitlines()[0].replace('|', '/')[:120]
            lines.append(f'{start} no: {reason} | | | | | | |')
            continue
        builds = record.builds or {}
        columns = {
            key: ' / '.join(f'{build[key]:g}' for build in builds.values()) for key in ('layers', 'mib', 'seconds')
        }
        lines.append(
            f'{start} {", ".join(builds)} | {record.nodes} | {columns["layers"]} | {columns["mib"]} | '
            f'{record.export_seconds:g} | {columns["seconds"]} | {record.peak_memory_mib / 1024:.1f} |'
        )
    done = sum(not record.error for record in records)
    return '\n'.join([*lines, '', f'{done} of {len(records)} built.'])


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    arguments: Any = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        raise SystemExit('usage: python -m tests.test_deploy.zoo FOLDER')
    print(table(Path(arguments[0])))


if __name__ == '__main__':
    main()
