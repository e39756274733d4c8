"""Try TensorRT and TensorRT-RTX on this machine: small graphs, and with ``--models`` whole models of each task."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.errors import run_tool
from mmtrtvit.deploy.backends import get_backend
from mmtrtvit.deploy.backends.check import CheckResult, check_backend, machine, markdown_table
from mmtrtvit.deploy.config import load_deploy_config
from mmtrtvit.deploy.pipeline import deploy
from mmtrtvit.fileio import atomic_write_json, atomic_write_text

#: Model config -> the task of its deploy config and the canvas: one model a task, and a Twins.
MODELS = {
    'trtvit/retinanet_trtvit-a': ('detection', (320, 320)),
    'trtvit/mask_rcnn_trtvit-a': ('instance-segmentation', (320, 320)),
    'twins/mask_rcnn_twins-svt-s': ('instance-segmentation', (320, 320)),
    'trtvit/semantic_fpn_trtvit-a': ('segmentation', (256, 256)),
    'trtvit/trtvit-a_imagenet': ('classification', (224, 224)),
}
PRECISIONS = ('fp32', 'fp16')
#: Deploy configs of every task and backend that lie nearest; the canvas is set besides.
_SIZES = {'detection': '640x640', 'instance-segmentation': '640x640', 'segmentation': '512x512'}


def check_models(name: str, folder: Path, models: Sequence[str] = tuple(MODELS)) -> list[CheckResult]:
    """Deploy whole models with random weights through a backend, fp32 and fp16, and run them where it can.

    Args:
        name: Of the backend.
        folder: For graphs and engines; made.
        models: Of :data:`MODELS`.

    Returns:
        Two results a model and precision: its build, and its run against the library's own prediction.
    """
    available = get_backend(name).availability()
    if not available.can_build:
        return [CheckResult(name, f'{model}, {precision}', 'not run', available.no_build)
                for model in models for precision in PRECISIONS]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'image.png'), cv2.resize(colours, (400, 320), interpolation=cv2.INTER_CUBIC))
    return [result for model in models for precision in PRECISIONS for result in _check(name, folder, model, precision)]


def _check(name: str, folder: Path, model: str, precision: str) -> Iterator[CheckResult]:
    """The build of one model, and its run."""
    task, (height, width) = MODELS[model]
    short, suffix = task.replace('segmentation', 'seg') if '-' in task else task, '' if precision == 'fp32' else '-fp16'
    config = f'{short}_{name}{suffix}_static-{_SIZES.get(task, "224x224")}'
    step = f'{model}, {precision}'
    try:
        made = deploy(
            load_deploy_config(config, {'onnx_config.height': height, 'onnx_config.width': width}),
            load_config(model),
            'none',
            [str(folder / 'image.png')],
            folder / f'{Path(model).name}_{precision}',
            device='cuda:0' if get_backend(name).availability().can_run else 'cpu',
        )
    except Exception as error:  # any failure is what the table is for
        yield CheckResult(name, f'build {step}', 'FAILED', f'{type(error).__name__}: {error}')
        return
    built = made.build
    yield CheckResult(
        name, f'build {step}', 'ok',
        f'{built.seconds:.1f} s, {built.engine_bytes / 2**20:.1f} MiB, {built.layers} layers, '
        f'{built.precision_share:.0%} of products in {precision} ({built.precision_source})',
    )  # fmt: skip
    ran, _, reason = made.ran.partition(' (')
    rows = '; '.join(f'{row.output} {row.largest:.3g}' for verdict in made.parity.values() for row in verdict.rows)
    status = 'not run' if ran != name else 'ok' if made.passed else 'FAILED'
    yield CheckResult(name, f'run {step}', status, reason.rstrip(')') if status == 'not run' else rows)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='check_tensorrt.py',
        allow_abbrev=False,
        description='Try TensorRT and TensorRT-RTX on this machine and print a Markdown table to paste. '
        'Exit status 1 if something that could run failed.',
    )
    names = ('tensorrt', 'tensorrt-rtx')
    parser.add_argument('--backend', choices=names, action='append', help='only this one; may be given twice')
    parser.add_argument('--models', action='store_true', help='whole models too, fp32 and fp16: some minutes')
    parser.add_argument('--work-dir', type=Path, help='keep graphs and engines here; a temporary folder otherwise')
    parser.add_argument('--output', type=Path, help='write the table to this file too; .json for the raw results')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    args.backend = args.backend or list(names)
    return args


def check(argv: Sequence[str]) -> None:
    """Check what was asked for.

    Raises:
        SystemExit: Status 1 if a step failed.
    """
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix='mmtrtvit-check-') as temporary:
        root = args.work_dir or Path(temporary)
        results = [result for name in args.backend for result in check_backend(get_backend(name), root / name)]
        if args.models:
            results += [result for name in args.backend for result in check_models(name, root / name / 'models')]
    table = markdown_table(results)
    print(table, end='')
    if args.output is not None and args.output.suffix == '.json':
        atomic_write_json(args.output, {'machine': machine(), 'results': [asdict(result) for result in results]})
    elif args.output is not None:
        atomic_write_text(args.output, table)
    if any(result.status == 'FAILED' for result in results):
        sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(check, argv)
