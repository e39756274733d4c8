"""Print the family's table: ``python -m mmtrtvit.models.summary``.

Parameters are those of the backbone without a head. GFLOPs are mmengine's count of one image, a multiply-add as one:
convolutions, Linear layers and norms, without the two matrix products inside attention.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer

from mmtrtvit.models.trtvit import ARCHS, TRTViT


def count(arch: str | dict[str, Any], shape: tuple[int, int] = (224, 224), **kwargs: Any) -> tuple[float, float]:
    """Return a backbone's parameters in millions and GFLOPs.

    Args:
        arch: As for :class:`TRTViT`.
        shape: Height and width of the image, in pixels.
        **kwargs: More arguments of :class:`TRTViT`.
    """
    backbone = TRTViT(arch, **kwargs).eval()
    image = torch.zeros(1, backbone.in_channels, *shape)
    counter = FlopAnalyzer(backbone, image)
    # Not counted, and named by mmengine otherwise: additions, GELU and attention; called in training only: DropPath.
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        flops = counter.total()
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6, flops / 1e9


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 224), metavar=('H', 'W'), help='size of the image')
    return parser.parse_args()


def main() -> None:
    """Print one row of Markdown for each variant."""
    height, width = parse_args().shape
    print(f'| variant | channels | depths | params (M) | GFLOPs at {height}x{width} |')
    print('|---|---|---|---|---|')
    for arch, settings in ARCHS.items():
        params, flops = count(arch, (height, width))
        channels, depths = (', '.join(map(str, settings[key])) for key in ('channels', 'depths'))
        print(f'| {arch.upper()} | {channels} | {depths} | {params:.2f} | {flops:.2f} |')


if __name__ == '__main__':
    main()
