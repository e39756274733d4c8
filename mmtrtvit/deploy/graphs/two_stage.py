"""Two-stage detectors: proposals, RoI features, box and mask heads, in plain tensors of fixed shapes.

The arithmetic follows mmdet 3.3.0: ``RPNHead``, ``StandardRoIHead``, ``CascadeRoIHead``, ``BBoxHead`` and
``FCNMaskHead``. A fixed number of proposals passes through; the rows past the real ones are masked, never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmtrtvit.deploy.graphs.base import (
    MODEL_GRAPHS,
    ROI_HEADS,
    DeployGraph,
    Float32Island,
    GraphOptions,
    UnsupportedModelError,
    feature_shapes,
    lookup,
    register,
)
from mmtrtvit.deploy.graphs.dense import INVALID, MAX_TOP_K, decode_boxes, flatten_level, nms_settings, rows_of
from mmtrtvit.deploy.graphs.mask_head import MaskHead, SelectMasks
from mmtrtvit.deploy.ops.boxes import gather_rows, top_k, top_k_classes
from mmtrtvit.deploy.ops.nms import greedy_keep, select_detections
from mmtrtvit.deploy.ops.roi_align import roi_align_pyramid

Features = Sequence[Tensor]


class Proposals(Float32Island):
    """The best boxes of a region proposal network.

    Args:
        head: ``RPNHead``.
        shapes: ``(H, W)`` of each level.
        options: As for the graph.
    """

    def __init__(self, head: Any, shapes: list[tuple[int, int]], options: GraphOptions) -> None:
        super().__init__()
        cfg = head.test_cfg
        self.image_shape = options.shape
        self.coder = head.bbox_coder
        self.use_sigmoid = head.use_sigmoid_cls
        self.columns = int(head.cls_out_channels)  # 1, or 2 with softmax: background last
        self.iou_threshold, agnostic = nms_settings(cfg, 'rpn_head.test_cfg')
        if agnostic:
            raise UnsupportedModelError('rpn_head.test_cfg.nms.class_agnostic=True has no graph: leave it out')
        self.nms = options.nms
        self.nms_pre = int(cfg.get('nms_pre', -1))
        min_size = cfg.get('min_bbox_size', -1)
        self.min_size = float(min_size) if min_size >= 0 else None
        if int(cfg.max_per_img) > MAX_TOP_K:
            raise UnsupportedModelError(
                f'rpn_head.test_cfg.max_per_img={cfg.max_per_img}: TensorRT sorts at most {MAX_TOP_K} rows, lower it'
            )
        self.max_per_img = int(cfg.max_per_img)
        for level, prior in enumerate(head.prior_generator.grid_priors(shapes, device='cpu')):
            self.register_buffer(f'priors_{level}', prior[None].float())  # (1, N, 4)

    def forward(self, outputs: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return proposals ``(B, P, 4)``, which of them are real ``(B, P)``, and whether they are proved ``(B,)``."""
        boxes, scores, limits = [], [], []
        for level, (logits, deltas) in enumerate(zip(*outputs, strict=True)):
            logits = flatten_level(logits, self.columns).float()
            score = logits.sigmoid()[..., 0] if self.use_sigmoid else logits.softmax(-1)[..., 0]
            wanted = min(self.nms_pre, score.shape[1]) if self.nms_pre > 0 else score.shape[1]
            best, index = top_k(score, min(wanted, MAX_TOP_K))
            if wanted > MAX_TOP_K:
                limits.append(best[:, -1])
            priors = self.get_buffer(f'priors_{level}').expand(score.shape[0], -1, -1)
            deltas = gather_rows(flatten_level(deltas, 4), index)
            boxes.append(decode_boxes(self.coder, gather_rows(priors, index), deltas, self.image_shape))
            scores.append(best)
        # a level's rows are sorted: padded to one length, the levels are suppressed apart as a batch of B * L
        longest = max(score.shape[1] for score in scores)
        all_boxes = torch.stack([pad_rows(b, longest, 0.0) for b in boxes], 1)  # (B, L, K, 4)
        all_scores = torch.stack([pad_rows(s, longest, INVALID) for s in scores], 1)  # (B, L, K)
        valid = all_scores >= 0
        if self.min_size is not None:
            width_height = all_boxes[..., 2:] - all_boxes[..., :2]
            valid = valid & (width_height > self.min_size).all(-1)
        batch, levels = all_boxes.shape[0], all_boxes.shape[1]
        keep, exact = greedy_keep(
            all_boxes.reshape(-1, longest, 4),
            valid.reshape(-1, longest),
            self.iou_threshold,
            groups=None,
            options=self.nms,
        )
        kept = torch.where(keep.reshape(batch, levels * longest), all_scores.reshape(batch, -1), INVALID)
        best, index = top_k(kept, min(self.max_per_img, levels * longest))
        real = best >= 0
        proposals = gather_rows(all_boxes.reshape(batch, -1, 4), index) * real[..., None]
        exact = exact.reshape(batch, levels).all(1)
        for limit in limits:  # cut shorter than mmdet cuts: harmless where all proposals score more than what was cut
            exact = exact & (best[:, -1] > limit)
        return proposals, real, exact


def pad_rows(x: Tensor, rows: int, value: float) -> Tensor:
    """Lengthen axis 1 of ``(B, N, ...)`` to ``rows``."""
    missing = rows - x.shape[1]
    if not missing:
        return x
    return torch.cat([x, x.new_full((x.shape[0], missing, *x.shape[2:]), value)], 1)


class RoIFeatures(nn.Module):
    """``SingleRoIExtractor`` for a fixed number of RoIs.

    Args:
        extractor: The mmdet module.
        options: As for the graph.
        where: Its name in the config, for messages.
    """

    def __init__(self, extractor: Any, options: GraphOptions, where: str) -> None:
        super().__init__()
        name, layer = type(extractor).__name__, extractor.roi_layers[0]
        if name != 'SingleRoIExtractor' or type(layer).__name__ != 'RoIAlign':
            raise UnsupportedModelError(
                f'{where}: {name} of {type(layer).__name__} has no graph: SingleRoIExtractor of RoIAlign has'
            )
        if layer.pool_mode != 'avg':
            raise UnsupportedModelError(f'{where}: roi_layer.pool_mode={layer.pool_mode!r} has no graph: avg has')
        ratio = options.roi_sampling_ratio or int(layer.sampling_ratio)
        if ratio == 0 and options.roi_align == 'static':
            raise UnsupportedModelError(
                f'{where}: roi_layer.sampling_ratio=0 samples adaptively, which has no static form. Train with 2, as '
                "the configs here do, or set roi_sampling_ratio=2 in the deploy config (close to the model's own: "
                "measure it with tools/test.py), or roi_align='onnx' for ONNX Runtime"
            )
        self.sampling_ratio = ratio
        self.strides = [int(stride) for stride in extractor.featmap_strides]
        height, width = layer.output_size
        self.output_size = (int(height), int(width))
        self.finest_scale = int(extractor.finest_scale)
        self.aligned = bool(layer.aligned)
        self.form = options.roi_align

    def forward(self, features: Features, rois: Tensor) -> Tensor:
        """Return ``(B * R, C, h, w)`` of ``rois`` ``(B, R, 4)``."""
        found = roi_align_pyramid(
            features[: len(self.strides)],
            rois,
            strides=self.strides,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            finest_scale=self.finest_scale,
            aligned=self.aligned,
            form=self.form,
        )
        return found.flatten(0, 1)


class RefineBoxes(Float32Island):
    """A cascade stage's boxes: the RoIs of the next stage.

    Args:
        head: The stage's ``BBoxHead``.
        image_shape: ``(H, W)`` to clip to.
    """

    def __init__(self, head: Any, image_shape: tuple[int, int]) -> None:
        super().__init__()
        self.coder = head.bbox_coder
        self.class_agnostic = head.reg_class_agnostic
        self.image_shape = image_shape

    def forward(self, rois: Tensor, logits: Tensor, deltas: Tensor, real: Tensor) -> Tensor:
        """Return ``(B, R, 4)``; ``logits`` ``(B, R, C + 1)``, ``deltas`` ``(B, R, 4 or 4 * C)``."""
        if not self.class_agnostic:
            label = logits[..., :-1].argmax(-1)
            deltas = deltas.unflatten(-1, (-1, 4))  # (B, R, C, 4)
            deltas = deltas.gather(2, label[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        return decode_boxes(self.coder, rois, deltas, self.image_shape) * real[..., None]


class SelectBoxes(Float32Island):
    """The detections of the last box head.

    Args:
        head: ``BBoxHead``.
        test_cfg: ``roi_head.test_cfg``.
        options: As for the graph.
    """

    def __init__(self, head: Any, test_cfg: Any, options: GraphOptions) -> None:
        super().__init__()
        if head.custom_cls_channels:
            raise UnsupportedModelError(
                f'{type(head).__name__}.loss_cls has an activation of its own: softmax has a graph'
            )
        self.coder = head.bbox_coder
        self.num_classes = int(head.num_classes)
        self.class_agnostic_boxes = bool(head.reg_class_agnostic)
        self.image_shape = options.shape
        self.score_threshold = float(test_cfg.score_thr)
        self.iou_threshold, self.class_agnostic = nms_settings(test_cfg, 'roi_head.test_cfg')
        self.max_dets = rows_of(options, test_cfg)
        self.nms = options.nms

    def forward(self, rois: Tensor, real: Tensor, logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        """Return boxes ``(B, M, 4)``, scores, labels ``(B, M)``, num_dets ``(B,)``, exact ``(B,)``.

        Args:
            rois: ``(B, R, 4)``.
            real: ``(B, R)``, False for padding.
            logits: ``(B, R, C + 1)``, background last.
            deltas: ``(B, R, 4)`` or ``(B, R, 4 * C)``.
        """
        scores = logits.float().softmax(-1)[..., :-1]
        scores = torch.where(real[..., None], scores, INVALID)
        count = rois.shape[1] * self.num_classes
        best, roi, label = top_k_classes(scores, min(self.nms.pre_top_k, count))
        if self.class_agnostic_boxes:
            chosen = gather_rows(deltas, roi)
        else:  # row roi * C + label of (B, R * C, 4)
            chosen = gather_rows(deltas.reshape(deltas.shape[0], -1, 4), roi * self.num_classes + label)
        boxes = decode_boxes(self.coder, gather_rows(rois, roi), chosen, self.image_shape)
        found = select_detections(
            boxes,
            best,
            label,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_dets=self.max_dets,
            class_agnostic=self.class_agnostic,
            options=self.nms,
            min_size=None,
            num_classes=self.num_classes,
        )
        # what the top K left out can only matter where fewer than max_dets were kept
        passing = (scores > self.score_threshold).flatten(1).sum(1)
        whole = (passing <= best.shape[1]) | (found.num_dets >= self.max_dets)
        return found.boxes, found.scores, found.labels, found.num_dets, found.exact & whole


@register(ROI_HEADS, 'StandardRoIHead')
class StandardRoIHead(nn.Module):
    """Faster R-CNN's box head and Mask R-CNN's mask head.

    Args:
        head: The mmdet RoI head.
        options: As for the graph.
    """

    def __init__(self, head: Any, options: GraphOptions) -> None:
        super().__init__()
        refuse_shared_head(head)
        self.box_features = RoIFeatures(head.bbox_roi_extractor, options, 'roi_head.bbox_roi_extractor')
        self.bbox_head = head.bbox_head
        self.select = SelectBoxes(head.bbox_head, head.test_cfg, options)
        self.mask = MaskBranch([head.mask_roi_extractor], [head.mask_head], options) if head.with_mask else None

    def forward(self, features: Features, rois: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, num_dets, exact and, with a mask head, masks."""
        logits, deltas = self.bbox_head(self.box_features(features, rois))
        shape = rois.shape[:2]
        found = self.select(rois, real, logits.reshape(*shape, -1), deltas.reshape(*shape, -1))
        return found if self.mask is None else (*found, self.mask(features, found[0], found[2]))


@register(ROI_HEADS, 'CascadeRoIHead')
class CascadeRoIHead(nn.Module):
    """Cascade R-CNN (arXiv 1712.00726): each stage refines the boxes, the class logits are averaged.

    Args:
        head: The mmdet RoI head.
        options: As for the graph.
    """

    def __init__(self, head: Any, options: GraphOptions) -> None:
        super().__init__()
        refuse_shared_head(head)
        self.box_features = nn.ModuleList(
            RoIFeatures(extractor, options, f'roi_head.bbox_roi_extractor[{stage}]')
            for stage, extractor in enumerate(head.bbox_roi_extractor)
        )
        self.bbox_head = head.bbox_head
        self.refine = nn.ModuleList(RefineBoxes(stage, options.shape) for stage in list(head.bbox_head)[:-1])
        self.select = SelectBoxes(head.bbox_head[-1], head.test_cfg, options)
        self.mask = MaskBranch(list(head.mask_roi_extractor), list(head.mask_head), options) if head.with_mask else None

    def forward(self, features: Features, rois: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, num_dets, exact and, with mask heads, masks."""
        shape, total = rois.shape[:2], torch.zeros(())
        for stage, (extract, head) in enumerate(zip(self.box_features, self.bbox_head, strict=True)):
            logits, deltas = (out.reshape(*shape, -1) for out in head(extract(features, rois)))
            total = logits if stage == 0 else total + logits
            if stage < len(self.refine):
                rois = self.refine[stage](rois, logits, deltas, real)
        found = self.select(rois, real, total / len(self.bbox_head), deltas)
        return found if self.mask is None else (*found, self.mask(features, found[0], found[2]))


class MaskBranch(nn.Module):
    """The masks of the detections, averaged over the stages of a cascade.

    Args:
        extractors: One a stage.
        heads: One ``FCNMaskHead`` a stage.
        options: As for the graph.
    """

    def __init__(self, extractors: list[Any], heads: list[Any], options: GraphOptions) -> None:
        super().__init__()
        for head in heads:
            if type(head).__name__ != 'FCNMaskHead':
                raise UnsupportedModelError(f'mask head {type(head).__name__} has no graph: FCNMaskHead has')
        self.features = nn.ModuleList(
            RoIFeatures(extractor, options, 'roi_head.mask_roi_extractor') for extractor in extractors
        )
        chosen = [MaskHead(head) for head in heads]
        self.heads = nn.ModuleList(chosen)
        # of a mask, height and width
        self.size = int(extractors[0].roi_layers[0].output_size[0]) * int(heads[0].scale_factor or 1)
        self.select = nn.ModuleList(
            SelectMasks(part.one_class or bool(head.class_agnostic)) for part, head in zip(chosen, heads, strict=True)
        )

    def forward(self, features: Features, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return ``(B, M, h, w)`` of boxes ``(B, M, 4)`` and labels ``(B, M)``."""
        masks = [
            select(head(extract(features, boxes), labels), labels)
            for extract, head, select in zip(self.features, self.heads, self.select, strict=True)
        ]
        return masks[0] if len(masks) == 1 else torch.stack(masks).mean(0)


def refuse_shared_head(head: Any) -> None:
    """Refuse the C4 detectors, whose RoI head shares a ResNet stage."""
    if head.with_shared_head:
        raise UnsupportedModelError(
            f'{type(head).__name__} with a shared_head (C4 detectors) has no graph: FPN ones have'
        )


@register(MODEL_GRAPHS, 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN', 'TwoStageDetector')
class TwoStageGraph(DeployGraph):
    """Backbone, neck, proposals, RoI head."""

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        if type(model.rpn_head).__name__ != 'RPNHead':
            raise UnsupportedModelError(f'rpn_head {type(model.rpn_head).__name__} has no graph: RPNHead has')
        kind = lookup(ROI_HEADS, model.roi_head, 'RoI head')
        with_mask = bool(model.roi_head.with_mask)
        self.task = 'instance-segmentation' if with_mask else 'detection'
        self.output_names = ('boxes', 'scores', 'labels', 'num_dets', 'exact', *(('masks',) if with_mask else ()))
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.rpn_head = model.rpn_head
        with torch.no_grad():
            shapes = feature_shapes(self.features(torch.zeros(1, 3, *options.shape)))
        self.proposals = Proposals(model.rpn_head, shapes, options)
        self.roi_head = kind(model.roi_head, options)
        self.max_dets = self.roi_head.select.max_dets
        if with_mask:
            self.mask_size = self.roi_head.mask.size

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the levels of the pyramid."""
        return tuple(self.neck(self.backbone(x)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, num_dets, exact and, with a mask head, masks."""
        features = self.features(self.normalize(image))
        rois, real, converged = self.proposals(self.rpn_head(features))
        boxes, scores, labels, num_dets, exact, *masks = self.roi_head(features, rois, real)
        return boxes, scores, labels, num_dets, exact & converged, *masks
