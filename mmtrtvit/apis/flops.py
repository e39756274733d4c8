"""Count parameters and multiply-adds of any model of OpenMMLab, whole and backbone apart."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmtrtvit.apis.config import add_config_arguments, check_has_model, load_config
from mmtrtvit.apis.errors import run_tool
from mmtrtvit.apis.model import quiet

#: Height and width of the published comparisons: Mask R-CNN and Semantic FPN in Next-ViT (arXiv 2207.05501, tables
#: 5 and 6), classification at ImageNet's 224.
DEFAULT_SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}

#: Proposals a two-stage detector's heads see: what mmdet keeps in testing (``rpn.max_per_img``).
PROPOSALS = 1000


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass on one image.

    Attributes:
        params: Number of parameters.
        flops: Multiply-adds, as mmengine's counter counts them; 1e9 of them are what papers call a GFLOP.
    """

    params: int
    flops: float


@dataclass(frozen=True)
class Complexity:
    """Cost of a model and its backbone at one input size.

    Attributes:
        shape: Height and width of the input in pixels.
        model: The whole model.
        backbone: Its backbone; None when the model has none.
        uncounted: Operations the counter does not know, with how often each occurs.
    """

    shape: tuple[int, int]
    model: Cost
    backbone: Cost | None
    uncounted: dict[str, int]


class _TensorsOnly(nn.Module):
    """A model of OpenMMLab as a function of the image tensor alone, for the tracer of the counter."""

    def __init__(self, model: nn.Module, samples: list[Any] | None) -> None:
        super().__init__()
        self.model = model
        self.samples = samples
        self.also: list[Any] = []

    def forward(self, images: torch.Tensor) -> Any:
        """Run the model without post-processing on ``(1, 3, H, W)``."""
        self.also.clear()
        samples = () if self.samples is None else (self.samples,)
        return self.model(images, *samples, mode='tensor'), self.also


def _samples(scope: str, height: int, width: int) -> list[Any] | None:
    """What the heads want to know of the image besides its pixels."""
    shape = (height, width)
    meta = {
        'img_shape': shape, 'ori_shape': shape, 'pad_shape': shape, 'batch_input_shape': shape,
        'scale_factor': (1.0, 1.0),
    }  # fmt: skip
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        sample = DetDataSample(metainfo=meta)
        # Sparse R-CNN's head takes the ground truth apart also where it is not used
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        return [sample]
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample

        return [SegDataSample(metainfo=meta)]
    return None


def _fix_proposals(model: nn.Module, also: list[Any], height: int, width: int) -> None:
    """Give the heads of a two-stage detector a full set of proposals, as the published figures count them.

    How many proposals of an untrained network survive their NMS is chance, and two thirds of a head's cost hang on
    it. The boxes are spread over the image and over all FPN levels. The RPN's own outputs go to ``also``: the tracer
    drops what leads nowhere.
    """
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(PROPOSALS, 2, generator=generator) * torch.tensor([width, height])
    half = 2 ** (3 + 6 * torch.rand(PROPOSALS, 1, generator=generator))
    boxes = torch.cat([centre - half, centre + half], dim=1)
    head: Any = model.rpn_head
    if type(head).forward is nn.Module.forward:  # Sparse R-CNN's proposals are parameters, always as many
        head.init_weights()  # boxes of the whole image; as they are built they may be of negative size
        return

    def predict(features: Any, samples: Any, rescale: bool = False) -> list[Any]:
        also.append(head(features))
        return [InstanceData(bboxes=boxes)]

    head.predict = predict


def complexity(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Count a config's model.

    Args:
        cfg: A config with ``model`` and ``default_scope``.
        shape: Height and width of the input in pixels; by default :data:`DEFAULT_SHAPES`.

    Raises:
        UserError: The config has no model.
    """
    check_has_model(cfg)
    scope = str(cfg.get('default_scope') or 'mmengine')
    init_default_scope(scope)
    height, width = shape or DEFAULT_SHAPES.get(scope, (224, 224))
    settings = cfg.model.copy()
    settings.pop('init_cfg', None)
    with quiet():
        model = MODELS.build(settings).eval()  # no stochastic depth, and BatchNorm takes a batch of 1
    traced = _TensorsOnly(model, _samples(scope, height, width))
    if getattr(model, 'with_rpn', False) and getattr(model, 'with_roi_head', False):
        _fix_proposals(model, traced.also, height, width)
    counter = FlopAnalyzer(traced, torch.zeros(1, 3, height, width))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    with torch.no_grad():
        by_module = counter.by_module()
    backbone = getattr(model, 'backbone', None)
    return Complexity(
        shape=(height, width),
        model=Cost(_parameters(model), by_module['']),
        backbone=Cost(_parameters(backbone), by_module['model.backbone']) if backbone is not None else None,
        uncounted=dict(counter.unsupported_ops()),
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/get_flops.py``."""
    parser = argparse.ArgumentParser(prog='get_flops.py', allow_abbrev=False, description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--shape', type=int, nargs='+', metavar=('H', 'W'), help='input size; one number for a square; default '
        + ', '.join(f'{h} {w} for {scope}' for scope, (h, w) in DEFAULT_SHAPES.items()),
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape takes one or two numbers above 0, not {" ".join(map(str, args.shape))}')
    return args


def get_flops(argv: Sequence[str]) -> Complexity:
    """Count and print as the command line says."""
    args = parse_args(argv)
    shape = None if args.shape is None else (args.shape[0], args.shape[-1])
    result = complexity(load_config(args.config, args.cfg_options), shape)
    print(f'{args.config}, one image of {result.shape[0]} x {result.shape[1]} (height x width)')
    print(f'{"":10}{"params (M)":>12}{"GFLOPs":>12}')
    for name, cost in (('model', result.model), ('backbone', result.backbone)):
        if cost is not None:
            print(f'{name:10}{cost.params / 1e6:12.2f}{cost.flops / 1e9:12.2f}')
    uncounted = sorted({name.removeprefix('aten::').removeprefix('prim::PythonOp.') for name in result.uncounted})
    print(f'A FLOP is a multiply-add. Not counted: {", ".join(uncounted) or "nothing"}')
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(get_flops, argv)
