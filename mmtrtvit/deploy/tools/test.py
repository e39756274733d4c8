"""Evaluate what a user has: a checkpoint, an ONNX file or an engine, the first also on the canvas of the others."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from mmengine.config import Config
from mmengine.runner import Runner

from mmtrtvit.apis import test as checkpoints
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import build_runner, forget_training
from mmtrtvit.apis.preflight import check_data


def is_engine(name: str, backend: str | None) -> bool:
    """Whether a file is an engine and not a checkpoint: by its suffix, its card, or a backend that is named."""
    return backend is not None or Path(name).suffix in ('.onnx', '.engine') or Path(f'{name}.json').is_file()


def engine_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """A runner that tests an engine."""
    try:
        from mmtrtvit.deploy import evaluate as engines
    except ImportError as error:
        raise UserError(f"{error}: pip install 'mmtrtvit[deploy]'") from error

    if args.letterbox:
        raise UserError('--letterbox: an engine has its own canvas; the option is for checkpoints')
    if not Path(args.checkpoint).is_file():
        raise UserError(f'engine not found: {args.checkpoint}; tools/deploy.py makes it')
    with tempfile.TemporaryDirectory() as folder:
        path = emulated(Path(args.checkpoint), Path(folder)) if args.emulate_fp16 else Path(args.checkpoint)
        engines.use_engine(cfg, str(path), device=args.device, backend=args.backend, threads=args.threads)
        check_data(cfg, ('test',))
        runner = forget_training(build_runner(cfg))
    model = cast('engines.EngineModel', runner.model)
    model.engine.path = Path(args.checkpoint)
    engines.check_classes(model, runner.test_loop.dataloader.dataset)
    runner.register_hook(engines.EngineReport())
    return runner


def emulated(onnx: Path, folder: Path) -> Path:
    """Make a graph, with its card, whose every fp16 result is rounded, which ONNX Runtime's CPU provider leaves out.

    Args:
        onnx: A graph in fp16 of ``tools/deploy.py``, also one that an engine was built of.
        folder: For the new files.

    Raises:
        UserError: It is no such graph, or not the file that its card describes.
    """
    from mmtrtvit.deploy.backends import read_card, sha256_of, verify_digest, write_card
    from mmtrtvit.deploy.precision import emulate_fp16

    if onnx.suffix != '.onnx':
        raise UserError(f'--emulate-fp16: {onnx} is an engine: name the end2end.onnx that it was built of')
    card, path = read_card(onnx), folder / onnx.name
    if card.precision_asked != 'fp16':
        raise UserError(f'--emulate-fp16: {onnx} is in {card.precision_asked}: deploy with precision="fp16"')
    verify_digest(onnx, card)
    emulate_fp16(onnx, path)
    write_card(replace(card, engine_sha256=sha256_of(path)), path)
    return path


def letterbox_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """A runner that tests a checkpoint on an engine's canvas."""
    from mmtrtvit.deploy.evaluate import letterbox_model, use_letterbox
    from mmtrtvit.deploy.preprocess import Letterbox
    from mmtrtvit.deploy.sizing import padding_of

    height, width = args.letterbox
    canvas = Letterbox(height, width, pad=padding_of(cfg))  # before the steps that size images are replaced
    runner = checkpoints.checkpoint_runner(cfg, args, lambda config: use_letterbox(config, *args.letterbox))
    letterbox_model(runner.model, canvas)
    return runner


def build(cfg: Config, args: argparse.Namespace) -> Runner:
    """The runner for what the command line names."""
    if args.tta and (args.letterbox or is_engine(args.checkpoint, args.backend)):
        raise UserError('--tta: an engine and its canvas take one image at a time: the option is for checkpoints alone')
    if is_engine(args.checkpoint, args.backend):
        return engine_runner(cfg, args)
    return letterbox_runner(cfg, args) if args.letterbox else checkpoints.checkpoint_runner(cfg, args)


def evaluate(argv: Sequence[str]) -> dict[str, float]:
    """Evaluate as the command line says; the metrics are logged and returned."""
    return checkpoints.evaluate(argv, build)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(evaluate, argv)
