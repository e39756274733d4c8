"""Measure where the time of a deployed model goes: reading, pre-processing, engine, post-processing, and its layers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmtrtvit.apis.config import add_config_arguments, load_config
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.deploy.config import DeployConfig, load_deploy_config
from mmtrtvit.deploy.inference import Engine, load
from mmtrtvit.deploy.profiler import Profile, find_images, profile
from mmtrtvit.deploy.tools.deploy import split_options
from mmtrtvit.fileio import atomic_write_json

LAYERS = 15
"""Rows of the table of layers; ``--json`` has all."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/profiler.py``, in the order that MMDeploy's users type."""
    parser = argparse.ArgumentParser(prog='profiler.py', allow_abbrev=False, description=__doc__)
    parser.add_argument('deploy_cfg', help='deploy config: a path, or a name below configs/deploy')
    add_config_arguments(parser)
    parser.add_argument('image_dir', help='folder of images, taken in turn')
    parser.add_argument('--model', required=True, metavar='FILE', help='end2end.onnx or end2end.engine')
    parser.add_argument('--warmup', type=int, default=10, metavar='N', help='iterations before the timed ones (10)')
    parser.add_argument('--num-iter', type=int, default=100, metavar='N', help='timed iterations (100)')
    parser.add_argument('--batch-size', type=int, metavar='N', help="images an iteration; default the engine's own")
    parser.add_argument('--device', help='cpu or cuda:0; default where the backend usually runs')
    parser.add_argument('--threads', type=int, metavar='N', help='CPU threads; default that of the deploy config')
    parser.add_argument('--json', metavar='OUT', help='also write everything to this file')
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> Profile:
    """Measure and print as the command line says."""
    args = parse_args(argv)
    if args.threads is not None and args.threads < 1:
        raise UserError(f'--threads {args.threads}: at least 1 is needed')
    for_deploy, for_model = split_options(args.cfg_options)
    deploy_cfg = load_deploy_config(args.deploy_cfg, for_deploy)
    model_cfg = load_config(args.config, for_model)
    images = find_images(args.image_dir)
    console = Console(highlight=False)
    threads = args.threads or deploy_cfg.load.threads
    options = dataclasses.replace(
        deploy_cfg.load,
        threads=threads if deploy_cfg.backend == 'onnxruntime' else None,
        check_finite=False,  # a pass over the image and, on a GPU, a wait, which would count as the engine's
    )
    if not Path(args.model).is_file():
        raise UserError(f'engine not found: {args.model}; tools/deploy.py makes it')
    with load(args.model, args.device, options=options) as engine:
        for warning in check_fit(engine, deploy_cfg, model_cfg):
            console.print(f'warning: {warning}', style='yellow', markup=False, soft_wrap=True)
        measured = profile(
            engine,
            images,
            warmup=args.warmup,
            iterations=args.num_iter,
            batch_size=args.batch_size,
            threads=threads,
        )
    report(console, measured)
    if args.json:
        console.print(f'  {atomic_write_json(args.json, measured.to_dict())}', markup=False, soft_wrap=True)
    return measured


def check_fit(engine: Engine, deploy_cfg: DeployConfig, model_cfg: Config) -> list[str]:
    """Compare the engine with both configs.

    Returns:
        What is odd but can be measured.

    Raises:
        UserError: The engine is of another backend or canvas than the deploy config says.
    """
    card, box = engine.card, engine.letterbox
    if deploy_cfg.backend != card.backend == 'onnxruntime':
        raise UserError(
            f'{engine.path} is a graph, which ONNX Runtime runs, and {deploy_cfg.name} is for {deploy_cfg.backend}: '
            'profile end2end.engine, or give a deploy config for onnxruntime of the same size'
        )
    if deploy_cfg.backend != card.backend:
        raise UserError(
            f'{deploy_cfg.name} is for {deploy_cfg.backend}, {engine.path} was built for {card.backend}: give the '
            f'deploy config that it was made with ({card.deploy_config or "not in its card"})'
        )
    if deploy_cfg.graph.shape != (box.height, box.width):
        warnings = [
            f'{deploy_cfg.name} says {deploy_cfg.graph.height}x{deploy_cfg.graph.width}, the engine is for '
            f'{box.height}x{box.width}, which is what is measured'
        ]
    else:
        warnings = []
    if Path(str(model_cfg.filename)).stem != card.model:
        warnings.append(f'{model_cfg.filename} is not the config of the engine, which is {card.config}')
    return warnings


def report(console: Console, measured: Profile) -> None:
    """Print the conditions, the regions and the layers."""
    facts = measured.conditions
    weights = ' (random weights)' if facts['random_weights'] else ''
    console.print(
        f'{facts["model"]}{weights}, {facts["precision"]}, {facts["backend"]} {facts["backend_version"]}, '
        f'{facts["input"]} {facts["height"]}x{facts["width"]}, batch {facts["batch_size"]}\n'
        f'{facts["gpu"] + ", " if facts["gpu"] else ""}{facts["cpu"]}, {facts["cores"]} cores, '
        f'threads: {facts["threads"]}, load before: {facts["load_average_before"]}\n'
        f'{", ".join(f"{name} {version}" for name, version in facts["versions"].items())}',
        markup=False,
        soft_wrap=True,
    )
    title = f'latency of a batch, ms; {facts["iterations"]} iterations after {facts["warmup"]}'
    table = Table('part', 'median', 'p10', 'p90', 'min', 'images/s', title=title)
    for region in measured.regions:
        times = (region.median_ms, region.p10_ms, region.p90_ms, region.min_ms)
        table.add_row(region.name, *(f'{value:.3f}' for value in times), f'{region.images_per_second:.1f}')
    console.print(table)
    for region in measured.regions:
        console.print(f'  {region.name}: {region.inside}', markup=False, soft_wrap=True)
    if measured.detections_per_image is not None:
        console.print(f'  {measured.detections_per_image:.1f} detections an image')
    report_layers(console, measured)


def report_layers(console: Console, measured: Profile) -> None:
    """Print the costliest layers, and the cost by kind."""
    layers = measured.layers
    if not layers:
        console.print(f'{measured.conditions["backend"]} does not tell the cost of single layers here')
        return
    kinds: dict[str, list[float]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind or '-', []).append(layer.milliseconds)
    total = sum(layer.milliseconds for layer in layers)
    by_kind = Table('kind', 'layers', 'ms', 'share', title=f'{len(layers)} layers of the engine, by kind')
    for kind, times in sorted(kinds.items(), key=lambda item: -sum(item[1]))[:LAYERS]:
        by_kind.add_row(kind, str(len(times)), f'{sum(times):.3f}', f'{sum(times) / (total or 1):.1%}')
    console.print(by_kind)
    table = Table('layer', 'kind', 'ms', 'share', title=f'the {min(LAYERS, len(layers))} costliest')
    for layer in layers[:LAYERS]:
        name = json.dumps(layer.name)[1:-1]  # no control characters on the terminal
        name = name if len(name) <= 60 else f'...{name[-57:]}'
        table.add_row(name.replace('[', '\\['), layer.kind, f'{layer.milliseconds:.3f}', f'{layer.share:.1%}')
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(run, argv)
