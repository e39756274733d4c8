"""One-stage detectors: candidates of all levels, decoded, filtered and suppressed in plain tensors.

The arithmetic follows ``mmdet.models.dense_heads.base_dense_head.BaseDenseHead`` (mmdet 3.3.0): per level the
``nms_pre`` best (prior, class) pairs over ``score_thr``, then decoding, then NMS over all levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmtrtvit.deploy.graphs.base import (
    DENSE_HEADS,
    MODEL_GRAPHS,
    DeployGraph,
    Float32Island,
    GraphOptions,
    UnsupportedModelError,
    feature_shapes,
    lookup,
    register,
)
from mmtrtvit.deploy.ops.boxes import decode_deltas, decode_distances, gather_rows, top_k_classes
from mmtrtvit.deploy.ops.nms import Detections, select_detections

#: Score of a candidate under ``score_thr``; every real score is at least 0.
INVALID = -1.0
MAX_TOP_K = 3840
#: Options of mmcv's ``nms`` and the largest value with which they change nothing.
_IDLE_NMS_OPTIONS = {'offset': 0, 'max_num': 0, 'score_threshold': 0.0}


def rows_of(options: GraphOptions, test_cfg: Any) -> int:
    """Return how many detections the graph of a detector gives: ``max_dets``, else what the model keeps.

    Args:
        options: As for the graph.
        test_cfg: With ``max_per_img``, which is -1 where all are kept.

    Raises:
        UnsupportedModelError: The model keeps fewer than ``max_dets``, or all and there is no ``max_dets``; or these
            are more than TensorRT sorts.
    """
    kept = int(test_cfg.get('max_per_img', -1))
    if kept < 1 and options.max_dets is None:
        raise UnsupportedModelError(f'test_cfg.max_per_img={kept} keeps everything: set it or max_dets to a number')
    if options.max_dets is not None and 1 <= kept < options.max_dets:
        raise UnsupportedModelError(
            f'max_dets={options.max_dets}: the model keeps test_cfg.max_per_img={kept}: raise that or leave it out'
        )
    rows = options.max_dets or kept
    if rows > MAX_TOP_K:
        name = 'max_dets' if options.max_dets else 'test_cfg.max_per_img'
        raise UnsupportedModelError(f'{name}={rows}: TensorRT sorts at most {MAX_TOP_K} rows, lower it')
    return rows


def nms_settings(test_cfg: Any, where: str) -> tuple[float, bool]:
    """Return the IoU threshold and whether classes suppress each other.

    Raises:
        UnsupportedModelError: Something else than plain NMS is asked for, or an option that changes its result.
    """
    nms = dict((test_cfg or {}).get('nms') or {})
    kind = nms.pop('type', 'nms')
    nms.pop('split_thr', None)  # so many boxes go class by class: the same result
    if kind != 'nms':
        raise UnsupportedModelError(
            f'{where}.nms.type={kind!r} has no static form: set it to nms and measure the accuracy'
        )
    threshold = nms.pop('iou_threshold', nms.pop('iou_thr', None))  # the second as mmcv 1 called it
    agnostic = bool(nms.pop('class_agnostic', False))
    if threshold is None:
        raise UnsupportedModelError(f"{where}.nms has no iou_threshold: set nms=dict(type='nms', iou_threshold=...)")
    for name, value in nms.items():
        if name not in _IDLE_NMS_OPTIONS or value > _IDLE_NMS_OPTIONS[name]:
            raise UnsupportedModelError(f'{where}.nms.{name}={value!r} has no graph: leave it out')
    return float(threshold), agnostic


def decode_boxes(coder: Any, priors: Tensor, predictions: Tensor, shape: tuple[int, int]) -> Tensor:
    """Decode with one of mmdet's coders.

    Args:
        coder: ``DeltaXYWHBBoxCoder`` or ``DistancePointBBoxCoder``.
        priors: ``(B, N, 4)`` anchors or ``(B, N, 2)`` points, pixels.
        predictions: ``(B, N, 4)``.
        shape: ``(H, W)`` to clip to.

    Returns:
        ``(B, N, 4)`` xyxy float32.
    """
    kind = type(coder).__name__
    clip = shape if getattr(coder, 'clip_border', True) else None
    if kind == 'DeltaXYWHBBoxCoder':
        return decode_deltas(
            priors,
            predictions,
            means=coder.means,
            stds=coder.stds,
            max_shape=clip,
            add_ctr_clamp=coder.add_ctr_clamp,
            ctr_clamp=coder.ctr_clamp,
        )
    if kind == 'DistancePointBBoxCoder':
        return decode_distances(priors, predictions, max_shape=clip)
    raise UnsupportedModelError(f'box coder {kind} has no graph: DeltaXYWHBBoxCoder and DistancePointBBoxCoder have')


class DenseHead(Float32Island):
    """Candidates of a dense head: the part after the head's convolutions.

    Args:
        head: The mmdet head.
        shapes: ``(H, W)`` of each level.
        options: As for the graph.
    """

    def __init__(self, head: Any, shapes: list[tuple[int, int]], options: GraphOptions) -> None:
        super().__init__()
        cfg, loss, where = head.test_cfg or {}, getattr(head, 'loss_cls', None), type(head).__name__
        sigmoid = type(loss).__name__ == 'FocalCustomLoss'  # which calls it an activation of its own
        if getattr(loss, 'custom_cls_channels', False) and not sigmoid:
            raise UnsupportedModelError(
                f'{where}.loss_cls has an activation of its own: sigmoid and softmax have graphs'
            )
        self.image_shape = options.shape
        self.num_classes = head.cls_out_channels
        self.classes = int(head.num_classes)
        self.use_sigmoid = head.use_sigmoid_cls
        self.coder: Any = getattr(head, 'bbox_coder', None)
        self.nms = options.nms
        self.iou_threshold, self.class_agnostic = nms_settings(cfg, f'{where}.test_cfg')
        self.score_threshold = float(cfg.get('score_thr', 0))
        min_size = cfg.get('min_bbox_size', -1)
        self.min_size = float(min_size) if min_size >= 0 else None
        self.max_dets = self.rows(cfg, options)
        self.nms_pre = int(cfg.get('nms_pre', -1))
        for level, prior in enumerate(self.priors(head, shapes)):
            self.register_buffer(f'priors_{level}', prior[None].float())  # (1, N, 4) or (1, N, 2)

    def rows(self, test_cfg: Any, options: GraphOptions) -> int:
        """Return how many detections the graph gives."""
        for name in ('nms_pre', 'max_per_img'):
            value = test_cfg.get(name, -1)
            if value < 1:  # mmdet slices [:-1]: it drops the last candidate of each level, the last detection
                raise UnsupportedModelError(f'test_cfg.{name}={value}: set it to a number, such as 1000 and 100')
        return rows_of(options, test_cfg)

    def priors(self, head: Any, shapes: list[tuple[int, int]]) -> list[Tensor]:
        """Return the anchors ``(N, 4)`` or points ``(N, 2)`` of each level, in pixels of the canvas."""
        return list(head.prior_generator.grid_priors(shapes, device='cpu'))

    def scores(self, logits: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return class scores ``(B, N, C)`` in [0, 1] and a factor ``(B, N)`` or None, of the raw outputs."""
        logits = logits.float()
        scores = logits.sigmoid() if self.use_sigmoid else logits.softmax(-1)[..., :-1]
        return scores, None if factor is None else factor.float()[..., 0].sigmoid()

    def forward(self, outputs: tuple[list[Tensor], ...]) -> tuple[Tensor, ...]:
        """Return boxes ``(B, M, 4)``, scores ``(B, M)``, labels ``(B, M)``, num_dets ``(B,)``, exact ``(B,)``.

        Args:
            outputs: Of the mmdet head: class logits ``(B, A * C, H, W)``, box predictions ``(B, A * 4, H, W)`` and,
                in some heads, score factors ``(B, A, H, W)``, a list over levels each.
        """
        boxes, scores, labels, limits = [], [], [], []
        for level, parts in enumerate(zip(*outputs, strict=True)):
            logits, deltas, *factors = map(flatten_level, parts, self.columns())
            level_scores, factor = self.scores(logits, factors[0] if factors else None)
            pairs = level_scores.shape[1] * level_scores.shape[2]
            wanted = min(self.nms_pre, pairs)
            # without a factor the best pre_top_k of all levels are among the best pre_top_k of each
            rows = min(wanted, MAX_TOP_K, MAX_TOP_K if factors else self.nms.pre_top_k)
            best, index, label = top_k_classes(level_scores, rows)
            valid = best > self.score_threshold
            if rows < wanted:
                limits.append(torch.where(valid, best, INVALID)[:, -1])
            if factor is not None:
                best = best * gather_rows(factor, index)
            priors = self.get_buffer(f'priors_{level}').expand(logits.shape[0], -1, -1)
            boxes.append(self.decode(level, gather_rows(priors, index), gather_rows(deltas, index)))
            scores.append(torch.where(valid, best, INVALID))
            labels.append(label)
        found = self.select(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(labels, 1))
        exact = found.exact
        if limits:  # levels cut shorter than mmdet cuts them: harmless where they held no more, or enough were kept
            limit = torch.stack(limits).amax(0)  # no lost candidate scores more
            plain = len(outputs) == 2 and self.min_size is None  # then what is lost has pre_top_k better ones before it
            enough = found.num_dets >= self.max_dets if plain else found.scores[:, -1] > limit
            exact = exact & (enough | (limit < 0))
        return found.boxes, found.scores, found.labels, found.num_dets, exact

    def select(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Return the detections among candidates ``(B, N, ...)``; those under the threshold score :data:`INVALID`."""
        return select_detections(
            boxes,
            scores,
            labels,
            score_threshold=INVALID / 2,
            iou_threshold=self.iou_threshold,
            max_dets=self.max_dets,
            class_agnostic=self.class_agnostic,
            options=self.nms,
            min_size=self.min_size,
            num_classes=self.classes,
        )

    def decode(self, level: int, priors: Tensor, predictions: Tensor) -> Tensor:
        """Return the boxes ``(B, K, 4)`` of what was predicted for some priors of one level."""
        return decode_boxes(self.coder, priors, predictions, self.image_shape)

    def columns(self) -> tuple[int, int, int]:
        """Return the numbers per prior: class logits, box values, score factors."""
        return self.num_classes, int(self.coder.encode_size), 1


def flatten_level(x: Tensor, columns: int) -> Tensor:
    """``(B, A * columns, H, W)`` to ``(B, H * W * A, columns)``, in the order of mmdet's priors."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


@register(DENSE_HEADS, 'RetinaHead', 'RetinaSepBNHead', 'FreeAnchorRetinaHead', 'YOLOFHead')
class AnchorHead(DenseHead):
    """RetinaNet (arXiv 1708.02002), FreeAnchor (1909.02466), YOLOF (2103.09460): anchors and deltas."""


@register(
    MODEL_GRAPHS, 'RetinaNet', 'ATSS', 'FCOS', 'RTMDet', 'GFL', 'VFNet', 'DDOD', 'AutoAssign', 'YOLOF', 'YOLOX',
    'SingleStageDetector',
)  # fmt: skip
class SingleStageGraph(DeployGraph):
    """Backbone, neck, dense head and its decoding."""

    task = 'detection'
    output_names = ('boxes', 'scores', 'labels', 'num_dets', 'exact')

    def __init__(self, model: Any, options: GraphOptions) -> None:
        super().__init__(model, options)
        kind = lookup(DENSE_HEADS, model.bbox_head, 'dense head')
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.head = model.bbox_head
        with torch.no_grad():
            shapes = feature_shapes(self.features(torch.zeros(1, 3, *options.shape)))
        self.detections = kind(model.bbox_head, shapes, options)
        self.max_dets = self.detections.max_dets

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the levels of the pyramid."""
        return tuple(self.neck(self.backbone(x)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, num_dets and exact."""
        return self.detections(self.head(self.features(self.normalize(image))))
