"""Image classification: any mmpretrain classifier whose head maps features to logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmtrtvit.deploy.graphs.base import (
    MODEL_GRAPHS,
    DeployGraph,
    Float32Island,
    GraphOptions,
    UnsupportedModelError,
    register,
)


class Probabilities(Float32Island):
    """Softmax over the classes."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return ``(B, C)`` probabilities."""
        return logits.float().softmax(1)


@register(MODEL_GRAPHS, 'ImageClassifier')
class ClassifierGraph(DeployGraph):
    """Backbone, neck, head, softmax."""

    task = 'classification'
    output_names = ('scores',)

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        from mmpretrain.models.heads import ClsHead

        kind = type(model.head)  # what predict would add to forward would be missing from the graph
        if not issubclass(kind, ClsHead) or (kind.predict, kind._get_predictions) != (
            ClsHead.predict, ClsHead._get_predictions,
        ):  # fmt: skip
            raise UnsupportedModelError(
                f"head {kind.__name__} has no deployable graph: heads that predict as mmpretrain's ClsHead does "
                '(LinearClsHead, VisionTransformerClsHead, ...) have. docs/deployment.md, "Adding a head", shows how '
                'to add one'
            )
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.head = model.head
        self.probabilities = Probabilities()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the probabilities of the classes."""
        return (self.probabilities(self.head(self.neck(self.backbone(self.normalize(image))))),)
