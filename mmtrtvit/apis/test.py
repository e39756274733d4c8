"""Evaluate a checkpoint of any detector, segmentor or classifier of OpenMMLab; the command line of all testing."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmtrtvit.apis.config import (
    add_config_arguments,
    check_has_loop,
    check_has_model,
    dataset_of_test,
    default_work_dir,
    load_config,
)
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.launch import (
    add_launch_arguments,
    build_runner,
    check_checkpoint,
    forget_training,
    leave_together,
    set_launcher,
)
from mmtrtvit.apis.preflight import check_data


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/test.py``."""
    parser = argparse.ArgumentParser(
        prog='test.py', allow_abbrev=False, description='Evaluate a checkpoint, an ONNX file or an engine.'
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', metavar='model', help='checkpoint (.pth), or what tools/deploy.py made (.onnx, .engine)'
    )
    add_launch_arguments(parser)
    parser.add_argument('--out', help='write all predictions to this .pkl file')
    parser.add_argument('--show-dir', help='write painted predictions to this folder')
    parser.add_argument(
        '--tta', action='store_true', help="merge predictions of augmented images: the config's, or flips"
    )
    parser.add_argument('--device', help='cpu or cuda:0; default what the model or the engine usually runs on')
    parser.add_argument('--backend', help='what runs an engine; default the one in its card')
    parser.add_argument('--threads', type=int, metavar='N', help='CPU threads; default all cores')
    parser.add_argument(
        '--letterbox', type=canvas_size, metavar='HxW', help="test a checkpoint on an engine's canvas, such as 800x1344"
    )
    parser.add_argument(
        '--emulate-fp16',
        action='store_true',
        help='round what every fp16 node of an ONNX file gives, as an engine does',
    )
    return parser.parse_args(argv)


def canvas_size(word: str) -> tuple[int, int]:
    """Height and width from ``800x1344``, as the ``type`` of an argument.

    Raises:
        argparse.ArgumentTypeError: It is not of that form.
    """
    match = re.fullmatch(r'(\d+)[xX](\d+)', word)
    if match is None or min(int(size) for size in match.groups()) < 1:
        raise argparse.ArgumentTypeError(f'{word!r} is not HxW, such as 800x1344 (height first)')
    return int(match[1]), int(match[2])


#: The hook of each library that paints predictions.
_PAINTERS = {'mmdet': 'DetVisualizationHook', 'mmseg': 'SegVisualizationHook', 'mmpretrain': 'VisualizationHook'}


def enable_drawing(cfg: Config, show_dir: str) -> None:
    """Let the visualization hook paint every test image into ``show_dir``.

    mmdet puts that folder into the run's own, ``<work dir>/<time>/<show_dir>``; the others take it as it is.

    Raises:
        UserError: The config has no such hook and its library none that is known.
    """
    scope = str(cfg.get('default_scope'))
    hooks = cfg.setdefault('default_hooks', {})
    if hooks.get('visualization') is None:
        if scope not in _PAINTERS:
            raise UserError(f'--show-dir: the config of {scope} has no default_hooks.visualization to paint with')
        hooks['visualization'] = {'type': _PAINTERS[scope]}
    hook = hooks['visualization']
    if scope == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=show_dir)
    elif scope == 'mmseg':
        hook.update(draw=True, interval=1)
        cfg.visualizer['save_dir'] = show_dir
    else:
        hook.update(draw=True, test_out_dir=show_dir)


#: What merges a library's predictions where the config has no ``tta_model``.
_MERGERS: dict[str, dict[str, Any]] = {
    'mmdet': {'type': 'DetTTAModel', 'tta_cfg': {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 100}},
    'mmseg': {'type': 'SegTTAModel'},
    'mmpretrain': {'type': 'AverageClsScoreTTA'},
}


def augment(cfg: Config) -> None:
    """Test with augmentation: the config's ``tta_model`` and ``tta_pipeline``, else the image and its mirror image.

    Raises:
        UserError: The config is of another library, or its evaluation wants masks, which mmdet does not merge.
    """
    scope = str(cfg.get('default_scope'))
    if scope not in _MERGERS:
        raise UserError(f'--tta: the config is of {scope}, not of {", ".join(_MERGERS)}')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if scope == 'mmdet' and any('segm' in (metric.get('metric') or ()) for metric in metrics):
        raise UserError('--tta: mmdet merges boxes and no masks: --cfg-options test_evaluator.metric=bbox')
    dataset = dataset_of_test(cfg)
    if 'tta_pipeline' in cfg:
        dataset.pipeline = cfg.tta_pipeline
    else:
        *steps, pack = dataset.pipeline
        if scope == 'mmdet':  # which has no flips among the keys that it keeps
            keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
            pack = {**pack, 'meta_keys': keys}
        flips = [{'type': 'RandomFlip', 'prob': prob} for prob in (1.0, 0.0)]
        dataset.pipeline = [*steps, {'type': 'TestTimeAug', 'transforms': [flips, [pack]]}]
    cfg.model = {**(cfg.get('tta_model') or _MERGERS[scope]), 'module': cfg.model}


def dump_to(runner: Runner, cfg: Config, out: str) -> None:
    """Write predictions to ``out``; detectors in mmdet's form, with masks as RLE."""
    metric: DumpResults
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        metric = DumpDetResults(out_file_path=out)
    else:
        metric = DumpResults(out_file_path=out)
    runner.test_evaluator.metrics.append(metric)


def prepare(args: argparse.Namespace) -> Config:
    """The config with everything the command line says merged in."""
    if args.out and Path(args.out).suffix not in ('.pkl', '.pickle'):
        raise UserError(f'--out {args.out}: the name must end in .pkl or .pickle')
    if args.threads is not None and args.threads < 1:
        raise UserError(f'--threads {args.threads}: at least 1 is needed')
    cfg = load_config(args.config, args.cfg_options)
    check_has_model(cfg)
    check_has_loop(cfg, 'test')
    set_launcher(cfg, args)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show_dir:
        enable_drawing(cfg, args.show_dir)
    if args.tta:
        augment(cfg)
    return cfg


def checkpoint_runner(cfg: Config, args: argparse.Namespace, adapt: Callable[[Config], object] | None = None) -> Runner:
    """A runner that tests a checkpoint; ``adapt`` may change the config when the arguments are found sound."""
    check_checkpoint(args.checkpoint)
    if args.emulate_fp16:
        raise UserError('--emulate-fp16: is for the ONNX file of an fp16 deployment, which tools/deploy.py makes')
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device:
        find_torch_device(args.device)
    if adapt is not None:
        adapt(cfg)
    check_data(cfg, ('test',))
    runner = forget_training(build_runner(cfg, weights=(args.checkpoint, 0.5)))
    if args.device:
        runner.model.to(args.device)
    return runner


def find_torch_device(name: str) -> None:
    """Check that there is a device.

    Raises:
        UserError: It is misspelt or not there.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        raise UserError(f'--device {name}: {str(error).splitlines()[0]}') from error


def evaluate(
    argv: Sequence[str], build: Callable[[Config, argparse.Namespace], Runner] = checkpoint_runner
) -> dict[str, float]:
    """Evaluate as the command line says; the metrics are logged and returned.

    Args:
        argv: The command line.
        build: Makes the runner; :mod:`mmtrtvit.deploy.tools.test` has one for engines.
    """
    args = parse_args(argv)
    cfg = prepare(args)
    runner = build(cfg, args)
    if args.out:
        dump_to(runner, cfg, args.out)
    metrics: dict[str, float] = runner.test()
    del runner  # leave_together wants nobody to hold it
    leave_together()
    return metrics
