"""Parts of a model as graphs of their own, to be timed and counted: the backbone, or all but the post-processing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmtrtvit.deploy.graphs.base import DeployGraph, GraphOptions, UnsupportedModelError, build_graph

PARTS = ('backbone', 'network', 'end2end')


class BackboneGraph(DeployGraph):
    """The backbone alone: an image to its feature maps."""

    task = 'features'

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        self.backbone = model.backbone
        with torch.no_grad():
            count = len(_tensors(self.backbone(torch.zeros(1, 3, *options.shape))))
        self.output_names = tuple(f'feature_{level}' for level in range(count))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps ``(B, C, h, w)``, the finest first."""
        return tuple(_tensors(self.backbone(self.normalize(image))))

    def reference(self, model: Any, image: Tensor) -> dict[str, Tensor]:
        """Return what the untouched model's backbone computes of a normalised image."""
        return dict(zip(self.output_names, _tensors(model.backbone(image)), strict=True))


class NetworkGraph(DeployGraph):
    """Backbone, neck and the convolutions of the first head: what papers call the latency of a detector."""

    task = 'network'

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        self.backbone = model.backbone
        self.neck = model.neck if getattr(model, 'with_neck', False) else torch.nn.Identity()
        self.head = first_head(model)
        with torch.no_grad():
            count = len(self.outputs(torch.zeros(1, 3, *options.shape)))
        self.output_names = tuple(f'output_{number}' for number in range(count))

    def reference(self, model: Any, image: Tensor) -> dict[str, Tensor]:
        """Return what the untouched model's own modules compute of a normalised image."""
        features = model.extract_feat(image)
        return dict(zip(self.output_names, _tensors(first_head(model)(features)), strict=True))

    def outputs(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return every tensor that the head returns, in its order, of a normalised image."""
        return tuple(_tensors(self.head(self.neck(self.backbone(image)))))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of an image of the contract."""
        return self.outputs(self.normalize(image))


def build_part(model: Any, options: GraphOptions, part: str = 'end2end') -> DeployGraph:
    """Build a graph of a part of a model.

    Args:
        model: The built model; see :func:`mmtrtvit.deploy.graphs.build_graph`.
        options: The canvas and the batch.
        part: One of :data:`PARTS`.
    """
    kinds = {'backbone': BackboneGraph, 'network': NetworkGraph, 'end2end': None}
    if part not in kinds:
        raise ValueError(f'part={part!r} is not one of {", ".join(PARTS)}')
    return build_graph(model, options, kinds[part])


def first_head(model: Any) -> torch.nn.Module:
    """Return the head that reads the neck's features.

    Raises:
        UnsupportedModelError: There is none: the model is unknown, or its head reads a transformer.
    """
    if hasattr(model, 'forward_transformer'):
        raise UnsupportedModelError(
            f'{type(model).__name__} has a transformer before its head, so no part="network": "backbone" and "end2end" '
            'work'
        )
    for name in ('rpn_head', 'bbox_head', 'decode_head', 'head'):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.ModuleList):
            return head[0]
        if isinstance(head, torch.nn.Module):
            return head
    raise UnsupportedModelError(f'{type(model).__name__} has no head that is known: part="backbone" works')


def _tensors(value: Any) -> list[Tensor]:
    return list(_flatten(value))


def _flatten(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples and lists; ``None`` entries, which some heads return, are left out."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _flatten(entry)
