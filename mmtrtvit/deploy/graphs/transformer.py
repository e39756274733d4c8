"""Detection transformers: a fixed number of queries, each a class and a box, sorted by score; no NMS.

The layers are mmdet's own (``mmdet.models.detectors.base_detr``, mmdet 3.3.0), called as its ``forward_transformer``
calls them. What hangs on the canvas alone, such as positional encodings, is computed once and becomes a constant.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from mmtrtvit.deploy.graphs.base import (
    MODEL_GRAPHS,
    DeployGraph,
    Float32Island,
    GraphOptions,
    UnsupportedModelError,
    feature_shapes,
    register,
)
from mmtrtvit.deploy.graphs.dense import rows_of
from mmtrtvit.deploy.ops.boxes import gather_rows, top_k, top_k_classes

#: Its sigmoid is 1, as infinity's.
_FAR = 1e4


class DeformableAttention(nn.Module):
    """mmcv's MultiScaleDeformableAttention over levels whose shapes are known; shares its weights.

    Args:
        source: mmcv's module.
        shapes: ``(H, W)`` of each level.
    """

    def __init__(self, source: Any, shapes: list[tuple[int, int]]) -> None:
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        super().__init__()
        self.shapes, self.sample = shapes, multi_scale_deformable_attn_pytorch
        self.heads, self.levels, self.points = source.num_heads, source.num_levels, source.num_points
        self.sampling_offsets, self.attention_weights = source.sampling_offsets, source.attention_weights
        self.value_proj, self.output_proj = source.value_proj, source.output_proj
        self.register_buffer('sizes', torch.tensor([(w, h) for h, w in shapes]).float(), persistent=False)

    def forward(
        self,
        query: Tensor,
        *,
        value: Tensor | None = None,
        query_pos: Tensor | None = None,
        reference_points: Tensor,
        **_: Any,
    ) -> Tensor:
        """Return ``(B, Q, C)``.

        Args:
            query: ``(B, Q, C)``.
            value: ``(B, N, C)``, the cells of all levels; None for ``query``.
            query_pos: ``(B, Q, C)``, added to ``query``.
            reference_points: ``(B, Q, levels, 2)`` points or ``(B, Q, levels, 4)`` boxes (cx, cy, w, h), in [0, 1].
        """
        value, identity = query if value is None else value, query
        query = query if query_pos is None else query + query_pos
        b, q, _channels = query.shape
        offsets = self.sampling_offsets(query).view(b, q, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(b, q, self.heads, -1).softmax(-1)
        centre = reference_points[:, :, None, :, None, :2]
        if reference_points.shape[-1] == 2:
            places = centre + offsets / self.get_buffer('sizes')[:, None]
        else:
            places = centre + offsets / self.points * reference_points[:, :, None, :, None, 2:] * 0.5
        value = self.value_proj(value).view(b, value.shape[1], self.heads, -1)
        weights = weights.view(b, q, self.heads, self.levels, self.points)
        return self.output_proj(self.sample(value, self.shapes, places, weights)) + identity


class EncoderProposals(nn.Module):
    """mmdet's ``gen_encoder_output_proposals`` of an unpadded canvas: the box of each cell, which queries begin from.

    Args:
        model: The detector.
        shapes: ``(H, W)`` of each level.
    """

    def __init__(self, model: Any, shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.memory_trans_fc, self.memory_trans_norm = model.memory_trans_fc, model.memory_trans_norm
        cells = torch.zeros(1, sum(h * w for h, w in shapes), model.encoder.embed_dims)
        with torch.no_grad():
            boxes = model.gen_encoder_output_proposals(cells, None, shapes)[1]  # (1, N, 4), infinite at the border
        self.register_buffer('outside', ~boxes.isfinite().all(-1, keepdim=True), persistent=False)
        self.register_buffer('boxes', boxes.nan_to_num(posinf=_FAR), persistent=False)

    def forward(self, memory: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
        """Return features ``(B, N, C)`` and boxes ``(1, N, 4)`` before their sigmoid, of ``memory`` ``(B, N, C)``."""
        memory = memory.masked_fill(self.get_buffer('outside'), 0.0)
        return self.memory_trans_norm(self.memory_trans_fc(memory)), self.get_buffer('boxes')


class QueryDetections(Float32Island):
    """What a head says of its queries, as detections.

    Args:
        head: mmdet's head.
        queries: Their number.
        options: As for the graph.
    """

    scale: Tensor

    def __init__(self, head: Any, queries: int, options: GraphOptions) -> None:
        super().__init__()
        height, width = options.shape
        self.use_sigmoid = bool(head.loss_cls.use_sigmoid)
        self.register_buffer('scale', torch.tensor([width, height, width, height]).float(), persistent=False)
        self.max_dets = rows_of(options, dict(max_per_img=(head.test_cfg or {}).get('max_per_img', queries)))
        rows = queries * head.num_classes if self.use_sigmoid else queries
        if self.max_dets > rows:
            raise UnsupportedModelError(
                f'{type(head).__name__}.test_cfg.max_per_img={self.max_dets}: there are {rows} to choose from, lower it'
            )

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Return boxes ``(B, M, 4)``, scores ``(B, M)``, labels ``(B, M)``, num_dets ``(B,)``, exact ``(B,)``.

        Args:
            logits: ``(B, Q, C)``.
            boxes: ``(B, Q, 4)``: cx, cy, w, h in [0, 1].
        """
        logits, boxes = logits.float(), box_convert(boxes.float(), 'cxcywh', 'xyxy') * self.scale
        if self.use_sigmoid:
            scores, index, labels = top_k_classes(logits.sigmoid(), self.max_dets)
        else:
            best, classes = logits.softmax(-1)[..., :-1].max(-1)
            scores, index = top_k(best, self.max_dets)
            labels = classes.gather(1, index)
        boxes = gather_rows(boxes.clamp(min=0).minimum(self.scale), index)
        exact = scores[:, 0] >= 0
        return boxes, scores, labels, exact.long() * self.max_dets, exact


class Given(nn.Module):
    """Keyword arguments of an encoder or decoder that hang on the canvas alone.

    Args:
        values: As mmdet's ``pre_transformer`` makes them for one image.
        shapes: ``(H, W)`` of each level, in the place of a tensor of them.
    """

    def __init__(self, values: dict[str, Any], shapes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.others = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        self.names = [name for name in values if name not in self.others and name not in ('feat', 'spatial_shapes')]
        for name in self.names:
            self.register_buffer(name, values[name], persistent=False)
        if 'spatial_shapes' in values:
            self.others['spatial_shapes'] = shapes

    def forward(self, batch: int) -> dict[str, Any]:
        """Return them for so many images."""
        made = {name: self.get_buffer(name) for name in self.names}
        return self.others | {
            name: value.expand(batch, *value.shape[1:]) if value.ndim > 1 else value for name, value in made.items()
        }


@register(MODEL_GRAPHS, 'DETR', 'ConditionalDETR', 'DABDETR', 'DeformableDETR')
class TransformerGraph(DeployGraph):
    """DETR (arXiv 2005.12872), Conditional (2108.06152), DAB- (2201.12329) and Deformable DETR (2010.04159).

    The whole canvas counts as the image: mmdet's mask of what is padded is not among the inputs.
    """

    task = 'detection'
    output_names = ('boxes', 'scores', 'labels', 'num_dets', 'exact')

    def __init__(self, model: Any, options: GraphOptions) -> None:
        from mmdet.structures import DetDataSample

        super().__init__(model, options)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.samples = [DetDataSample(metainfo=dict(img_shape=options.shape, batch_input_shape=options.shape))]
        with torch.no_grad():
            features = self.features(torch.zeros(1, 3, *options.shape))
            for_encoder, for_decoder = model.pre_transformer(features, self.samples)
        shapes = feature_shapes(features)
        self.several = 'spatial_shapes' in for_encoder
        self.for_encoder, self.for_decoder = Given(for_encoder, shapes), Given(for_decoder, shapes)
        self.transformer = static_twin(model, shapes)
        self.detections = QueryDetections(model.bbox_head, model.num_queries, options)
        self.max_dets = self.detections.max_dets

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the levels of the pyramid."""
        return tuple(self.neck(self.backbone(x)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, num_dets and exact."""
        features, model = self.features(self.normalize(image)), self.transformer
        batch = image.shape[0]
        feat = torch.cat([level.flatten(2).transpose(1, 2) for level in features[0 if self.several else -1 :]], 1)
        encoded = model.forward_encoder(feat=feat, **self.for_encoder(batch))
        queries, for_head = model.pre_decoder(**encoded)
        decoded = self.decode({**self.for_decoder(batch), **queries})
        logits, boxes = model.bbox_head.predict(**for_head, **decoded, batch_data_samples=self.samples, rescale=False)
        return self.detections(logits, boxes)

    def decode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return what the head takes of what mmdet's ``forward_decoder`` takes."""
        decoded: dict[str, Any] = self.transformer.forward_decoder(**inputs)
        return decoded


@register(MODEL_GRAPHS, 'DINO')
class DINOGraph(TransformerGraph):
    """DINO (arXiv 2203.03605)."""

    def decode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As mmdet's, but for a branch that only training needs and that takes the number of images for a constant."""
        others = {name: inputs[name] for name in ('query', 'reference_points', 'spatial_shapes', 'level_start_index')}
        states, references = self.transformer.decoder(
            value=inputs['memory'],
            key_padding_mask=inputs['memory_mask'],
            self_attn_mask=None,
            valid_ratios=inputs['valid_ratios'],
            reg_branches=self.transformer.bbox_head.reg_branches,
            **others,
        )
        return {'hidden_states': states, 'references': list(references)}


def static_twin(model: Any, shapes: list[tuple[int, int]]) -> Any:
    """Return the transformer and the head of a detector, with its weights but modules of its own.

    Deformable attention knows the shapes of its levels, the boxes that a second stage begins from are constants, and
    the head's ``predict`` ends in logits and boxes of the last layer.
    """
    from mmcv.ops import MultiScaleDeformableAttention

    shared = {id(weight): weight for weight in (*model.parameters(), *model.buffers())}
    left_out = {id(part): None for part in (model.backbone, getattr(model, 'neck', None)) if part is not None}
    twin = copy.deepcopy(model, {**shared, **left_out})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(parent, name, DeformableAttention(child, shapes))
    if getattr(model, 'as_two_stage', False):
        twin.proposals = EncoderProposals(model, shapes)
        vars(twin)['gen_encoder_output_proposals'] = twin.proposals  # a module under a method's name is not found
    twin.bbox_head.predict_by_feat = _last_layer
    return twin


def _last_layer(logits: Tensor, boxes: Tensor, *_others: Any, **_options: Any) -> tuple[Tensor, Tensor]:
    """Stand in for a head's ``predict_by_feat``: ``(layers, B, Q, ...)`` to ``(B, Q, ...)``."""
    return logits[-1], boxes[-1]
