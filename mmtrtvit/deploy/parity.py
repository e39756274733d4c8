"""The library's own prediction against a backend's: how far apart, and whether that is near enough.

The reference is what mmdet, mmseg or mmpretrain compute with the untouched model on the same canvas, brought into the
contract's tensors; none of the graph's code takes part. Where the deploy config sets ``roi_sampling_ratio``, the
library's own RoIAlign takes it as well: what that costs in accuracy is the evaluator's to say.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmtrtvit.deploy.graphs import DeployGraph
from mmtrtvit.deploy.graphs.parts import BackboneGraph, NetworkGraph

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far a backend may be from the reference on one image.

    Attributes:
        boxes_px: Corner of a box, pixels of the canvas.
        scores: Score of a detection or a class, 0 to 1.
        masks: Mask probability before pasting, 0 to 1; with ``masks_by_iou`` what the IoU may lack of 1.
        share: Least share of detections with the same label and all of the above.
        pixels: Least share of pixels with the same class.
        logits: Segmentation logits, relative to the largest of the reference.
        score_floor: Detections below are left out: in fp16 and int8 those near the threshold come and go.
        masks_by_iou: Compare masks as they are pasted, cut at 0.5: in int8 one pixel of a sound mask's border may be
            anything.
    """

    boxes_px: float
    scores: float
    masks: float
    share: float
    pixels: float
    logits: float
    score_floor: float = 0.0
    masks_by_iou: bool = False


#: fp32: the contract of docs/deployment.md. fp16 and int8: what one image can tell; the verdict on accuracy is the
#: evaluator's (tools/test.py), within 0.2 and 1.0 AP.
TOLERANCES = {
    'fp32': Tolerance(boxes_px=0.01, scores=1e-4, masks=1e-3, share=0.99, pixels=0.9999, logits=1e-4),
    'fp16': Tolerance(boxes_px=2.0, scores=0.03, masks=0.1, share=0.9, pixels=0.99, logits=0.02, score_floor=0.3),
    'int8': Tolerance(
        boxes_px=12.0, scores=0.2, masks=0.25, share=0.7, pixels=0.9, logits=0.3, score_floor=0.3, masks_by_iou=True
    ),
}
#: Two scores nearer than this may be sorted either way by two sound implementations.
TIE = 1e-5


@dataclass(frozen=True)
class Row:
    """One line of the verdict.

    Attributes:
        output: Name of the tensor, or what was counted.
        largest: The largest difference found, or the share.
        allowed: What the tolerance allows.
        passed: The verdict.
        note: What the number is of.
    """

    output: str
    largest: float
    allowed: float
    passed: bool
    note: str


@dataclass(frozen=True)
class Parity:
    """The verdict on one batch.

    Attributes:
        rows: One a tensor.
        unmatched: The detections that one side has and the other has not, each with the reason where it is known.
        detections: How many the reference has.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[str, ...] = ()
    detections: int = 0

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON of a deployment holds: null for a difference that is not finite, which JSON has not."""
        values = {'passed': self.passed, **asdict(self)}
        for row in values['rows']:
            row['largest'] = row['largest'] if math.isfinite(row['largest']) else None
        return values


def compare(reference: Outputs, found: Outputs, tolerance: Tolerance, mask_threshold: float = 0.5) -> Parity:
    """Compare two sets of the contract's tensors.

    Args:
        reference: What is right.
        found: What a backend gave; ``exact``, where there is, is only looked at here.
        tolerance: What may differ.
        mask_threshold: What the model cuts its masks at, for a tolerance ``masks_by_iou``.
    """
    reference = {name: value.detach().cpu() for name, value in reference.items()}
    found = {name: value.detach().cpu() for name, value in found.items()}
    if 'boxes' in reference:
        return _detections(reference, found, tolerance, mask_threshold)
    if 'label_map' in reference:
        share = float((reference['label_map'] == found['label_map']).double().mean())
        return Parity((Row('label_map', share, tolerance.pixels, share >= tolerance.pixels, 'share of equal pixels'),))
    if 'logits' not in reference and 'scores' not in reference:  # a part of a model
        return Parity(tuple(_relative(name, reference[name], found[name], tolerance) for name in reference))
    name = 'logits' if 'logits' in reference else 'scores'
    scale = float(reference[name].abs().max()) if name == 'logits' else 1.0
    allowed = tolerance.logits if name == 'logits' else tolerance.scores
    largest = float((reference[name].double() - found[name].double()).abs().max()) / max(scale, 1e-12)
    note = 'largest difference, relative to the largest logit' if name == 'logits' else 'largest difference'
    return Parity((Row(name, largest, allowed, largest <= allowed, note),))


def _relative(name: str, reference: Tensor, found: Tensor, tolerance: Tolerance) -> Row:
    scale = max(float(reference.abs().max()), 1e-12)
    largest = float((reference.double() - found.double()).abs().max()) / scale
    return Row(name, largest, tolerance.logits, largest <= tolerance.logits, 'relative to the largest value')


def _detections(reference: Outputs, found: Outputs, tolerance: Tolerance, mask_threshold: float) -> Parity:
    """Pair the detections of both sides by label and place.

    A pair counts if either side reaches the score floor, so that a detection near it does not come and go.
    """
    pairs, unmatched, alone = [], [], 0
    for image in range(reference['boxes'].shape[0]):
        ours, theirs = (_real(side, image) for side in (reference, found))
        chosen, left = _pair(ours, theirs, tolerance, mask_threshold)
        pairs += [pair for pair in chosen if pair.score >= tolerance.score_floor]
        left = [single for single in left if single.score >= tolerance.score_floor]
        unmatched += [f'image {image}: {single.text}' for single in left]
        alone += max(sum(single.ours for single in left), sum(not single.ours for single in left))
    total = len(pairs) + alone
    share = len(pairs) / total if total else 1.0
    worst = [max((pair.differences[i] for pair in pairs), default=0.0) for i in range(3)]
    floor = f' scoring at least {tolerance.score_floor}' if tolerance.score_floor else ''
    rows = [
        Row('detections', share, tolerance.share, share >= tolerance.share, f'share of {total}{floor} that agree'),
        Row('boxes', worst[0], tolerance.boxes_px, True, 'largest difference of those, pixels'),
        Row('scores', worst[1], tolerance.scores, True, 'largest difference of those'),
    ]
    if 'masks' in reference:
        what = '1 - IoU' if tolerance.masks_by_iou else 'difference'
        rows.append(Row('masks', worst[2], tolerance.masks, True, f'largest {what} of those, before pasting'))
    if 'exact' in found:
        # no difference between the sides, so no reason to fail: a warning of what another image may bring
        exact = float(found['exact'].double().mean())
        rows.append(Row('exact', exact, 0.0, True, 'share of images whose NMS proved itself complete'))
    return Parity(tuple(rows), tuple(unmatched), total)


def _real(side: Outputs, image: int) -> dict[str, Tensor]:
    """Return the rows of one image that are detections."""
    count = int(side['num_dets'][image])
    return {name: side[name][image][:count] for name in ('boxes', 'scores', 'labels', 'masks') if name in side}


class _Pair(NamedTuple):
    """Two detections that agree: the higher score, and how far boxes, scores and masks are apart."""

    score: float
    differences: tuple[float, float, float]


class _Single(NamedTuple):
    """A detection without a partner: its score, whether it is the reference's, and itself in words."""

    score: float
    ours: bool
    text: str


def _pair(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: Tolerance, mask_threshold: float
) -> tuple[list[_Pair], list[_Single]]:
    """Return the pairs that agree, and the detections that have no partner."""
    if len(ours['scores']) and len(theirs['scores']):
        boxes = (ours['boxes'][:, None].double() - theirs['boxes'][None].double()).abs().amax(-1)  # (R, F)
        scores = (ours['scores'][:, None].double() - theirs['scores'][None].double()).abs()
        agree = (ours['labels'][:, None] == theirs['labels'][None]) & (boxes <= tolerance.boxes_px)
        agree &= scores <= tolerance.scores
        masks = torch.zeros_like(boxes)
        if 'masks' in ours and 'masks' in theirs:
            for r, f in agree.nonzero().tolist():
                masks[r, f] = _mask_distance(ours['masks'][r], theirs['masks'][f], tolerance, mask_threshold)
            agree &= masks <= tolerance.masks
    else:
        agree = torch.zeros(len(ours['scores']), len(theirs['scores']), dtype=torch.bool)
    pairs, free, alone = [], torch.ones(agree.shape[1], dtype=torch.bool), []
    for row in range(agree.shape[0]):
        candidates = (agree[row] & free).nonzero()[:, 0]
        if not len(candidates):
            said = _describe('only in the reference', ours, row, theirs)
            alone.append(_Single(float(ours['scores'][row]), True, said))
            continue
        best = int(candidates[(boxes[row, candidates] + scores[row, candidates]).argmin()])
        free[best] = False
        higher = max(float(ours['scores'][row]), float(theirs['scores'][best]))
        pairs.append(_Pair(higher, (float(boxes[row, best]), float(scores[row, best]), float(masks[row, best]))))
    for row in free.nonzero()[:, 0].tolist():
        said = _describe('only in the backend', theirs, row, ours)
        alone.append(_Single(float(theirs['scores'][row]), False, said))
    return pairs, alone


def _mask_distance(ours: Tensor, theirs: Tensor, tolerance: Tolerance, threshold: float) -> float:
    """Return how far two masks ``(h, w)`` are apart, in the measure of ``tolerance.masks``."""
    if not tolerance.masks_by_iou:
        return float((ours.double() - theirs.double()).abs().max())
    ours, theirs = ours >= threshold, theirs >= threshold
    either, both = (ours | theirs).sum(), (ours & theirs).sum()
    return 1.0 - float(both / either) if either else 0.0


def _describe(which: str, side: dict[str, Tensor], row: int, other: dict[str, Tensor]) -> str:
    """Return one unmatched detection in words, with the likeliest reason."""
    box, score, label = side['boxes'][row], float(side['scores'][row]), int(side['labels'][row])
    near = (side['scores'] - score).abs() <= TIE
    last = len(side['scores']) == row + 1
    if int(near.sum()) > 1:
        reason = 'its score ties with another'
    elif last and len(side['scores']) >= len(other['scores']):
        reason = 'the last one: it stands at the limit of detections or of the score'
    else:
        reason = 'no tie'
    place = ', '.join(f'{value:.2f}' for value in box.tolist())
    return f'{which}: label {label}, score {score:.6f}, box ({place}): {reason}'


def library_outputs(model: Any, graph: DeployGraph, image: Tensor) -> dict[str, Tensor]:
    """Return what the model's own library predicts, as the contract's tensors.

    Args:
        model: The untouched model, in eval mode.
        graph: Its graph: the task, the options, the number of rows.
        image: ``(B, 3, H, W)`` normalised float32, the whole canvas taken for image.
    """
    height, width = graph.options.shape
    meta = {
        'img_shape': (height, width), 'ori_shape': (height, width), 'pad_shape': (height, width),
        'batch_input_shape': (height, width), 'scale_factor': (1.0, 1.0),
    }  # fmt: skip
    with torch.no_grad():
        if isinstance(graph, (BackboneGraph, NetworkGraph)):
            return graph.reference(model, image)
        if graph.task == 'classification':
            return {'scores': torch.stack([sample.pred_score for sample in model.predict(image)])}
        if graph.task == 'segmentation':
            return _segmentation(model, graph, image, meta)
        with _sampling(model, graph.options.roi_sampling_ratio):
            return _mmdet(model, graph, image, meta)


def other_sampling(model: nn.Module, ratio: int | None) -> list[Any]:
    """Return the RoIAlign layers of a model that sample otherwise than the deploy config's ``roi_sampling_ratio``."""
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ == 'RoIAlign']
    return [layer for layer in layers if ratio is not None and layer.sampling_ratio != ratio]


@contextlib.contextmanager
def _sampling(model: nn.Module, ratio: int | None) -> Iterator[None]:
    changed = [(layer, layer.sampling_ratio) for layer in other_sampling(model, ratio)]
    for layer, _ in changed:
        layer.sampling_ratio = ratio
    try:
        yield
    finally:
        for layer, own in changed:
            layer.sampling_ratio = own


def _segmentation(model: Any, graph: DeployGraph, image: Tensor, meta: dict[str, Any]) -> dict[str, Tensor]:
    from mmseg.structures import SegDataSample

    if graph.output_names == ('logits',):  # with one class, predict's seg_logits are probabilities
        return {'logits': model.inference(image, [meta] * len(image))}
    samples = model.predict(image, [SegDataSample(metainfo=meta) for _ in image])
    return {'label_map': torch.cat([sample.pred_sem_seg.data for sample in samples]).long()}


def _mmdet(model: Any, graph: DeployGraph, image: Tensor, meta: dict[str, Any]) -> dict[str, Tensor]:
    from mmdet.structures import DetDataSample

    rows = graph.max_dets
    names = ['boxes', 'scores', 'labels', *(['masks'] if 'masks' in graph.output_names else [])]
    images = []
    for one in image:  # one at a time: the mask head's outputs belong to one image
        caught: list[Tensor] = []
        hooks = []
        if 'masks' in names:
            heads = model.roi_head.mask_head
            for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
                hooks.append(head.register_forward_hook(_catch(caught)))
        try:
            sample = model.predict(one[None], [DetDataSample(metainfo=meta)], rescale=False)[0]
        finally:
            for hook in hooks:
                hook.remove()
        found = sample.pred_instances
        tensors = {'boxes': found.bboxes, 'scores': found.scores, 'labels': found.labels}
        if 'masks' in names:
            tensors['masks'] = _class_masks(caught, found.labels, graph)
        tensors = {name: value[:rows] for name, value in tensors.items()}
        count = len(tensors['scores'])
        padded = {
            name: torch.cat([value, value.new_full((rows - count, *value.shape[1:]), -1 if name == 'labels' else 0)])
            for name, value in tensors.items()
        }
        images.append(padded | {'num_dets': torch.tensor(count)})
    return {name: torch.stack([entry[name] for entry in images]) for name in [*names, 'num_dets']}


def _catch(into: list[Tensor]) -> Any:
    """Return a forward hook that keeps what a module returns."""
    return lambda module, inputs, output: into.append(output)


def _class_masks(logits: list[Tensor], labels: Tensor, graph: DeployGraph) -> Tensor:
    """Return the probabilities of the detections' own classes ``(N, h, w)``, averaged over stages."""
    if not logits:
        size = graph.mask_size
        return torch.zeros(0, size, size)
    per_stage = []
    for stage in logits:
        column = labels if stage.shape[1] > 1 else torch.zeros_like(labels)
        per_stage.append(stage.sigmoid()[torch.arange(len(labels)), column])
    return torch.stack(per_stage).mean(0)
