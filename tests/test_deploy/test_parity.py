"""The verdict on two sets of outputs: what passes, what does not, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from mmtrtvit.deploy.parity import TOLERANCES, compare, library_outputs
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import graph_of, images

FP32 = TOLERANCES['fp32']


def detections(count: int = 10, rows: int = 20, batch: int = 1, masks: bool = False) -> dict[str, Tensor]:
    """Outputs of a detector: ``count`` detections a picture in ``rows`` rows, well apart."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(batch, rows, 2, generator=generator) * 500
    real = torch.arange(rows) < count
    outputs = {
        'boxes': torch.cat([corner, corner + 50], -1) * real[:, None],
        'scores': torch.linspace(0.9, 0.1, rows).expand(batch, rows) * real,
        'labels': torch.where(real, torch.arange(rows) % 3, -1).expand(batch, rows).clone(),
        'num_dets': torch.full((batch,), count),
        'exact': torch.ones(batch, dtype=torch.bool),
    }
    if masks:
        outputs['masks'] = torch.rand(batch, rows, 28, 28, generator=generator) * real[:, None, None]
    return outputs


def changed(outputs: dict[str, Tensor], name: str, row: Any, by: float) -> dict[str, Tensor]:
    copy = {key: value.clone() for key, value in outputs.items()}
    copy[name][0, row] += by
    return copy


def test_equal_outputs_pass() -> None:
    verdict = compare(detections(masks=True), detections(masks=True), FP32)
    assert verdict.passed
    assert verdict.detections == 10
    assert [(row.output, row.largest) for row in verdict.rows] == [
        ('detections', 1.0), ('boxes', 0.0), ('scores', 0.0), ('masks', 0.0), ('exact', 1.0),
    ]  # fmt: skip
    assert json.loads(json.dumps(verdict.to_dict()))['passed'] is True


@pytest.mark.parametrize(
    ('name', 'within', 'beyond'), [('boxes', 0.009, 0.02), ('scores', 0.9e-4, 2e-4), ('masks', 0.9e-3, 2e-3)]
)
def test_the_limits(name: str, within: float, beyond: float) -> None:
    reference = detections(masks=True)
    verdict = compare(reference, changed(reference, name, 3, within), FP32)
    assert verdict.passed
    assert verdict.unmatched == ()
    row = {row.output: row for row in verdict.rows}[name]
    assert row.largest == pytest.approx(within, rel=0.05)
    assert row.allowed == {'boxes': 0.01, 'scores': 1e-4, 'masks': 1e-3}[name]
    verdict = compare(reference, changed(reference, name, 3, beyond), FP32)
    assert not verdict.passed
    assert len(verdict.unmatched) == 2
    assert verdict.rows[0].largest == pytest.approx(0.9)


def test_masks_of_int8_are_compared_as_they_are_pasted() -> None:
    reference = detections(masks=True)
    reference['masks'][0, 3] = 0.0
    reference['masks'][0, 3, :20] = 0.9  # 20 of 28 rows
    border, shifted, gone = (changed(reference, 'masks', 3, 0.0) for _ in range(3))
    border['masks'][0, 3, 20, :] = 0.8  # one row more: IoU 20 / 21
    shifted['masks'][0, 3] = reference['masks'][0, 3].roll(3, 0)  # IoU 17 / 23
    gone['masks'][0, 3] = 0.2
    for found, distance, alone in ((border, 1 / 21, 0), (shifted, 0.0, 2), (gone, 0.0, 2)):
        verdict = compare(reference, found, TOLERANCES['int8'])
        assert {row.output: row for row in verdict.rows}['masks'].largest == pytest.approx(distance)
        assert len(verdict.unmatched) == alone
    assert compare(gone, gone, TOLERANCES['int8']).unmatched == ()  # no pixel on either side
    assert len(compare(reference, border, TOLERANCES['fp16']).unmatched) == 2
    lower = compare(reference, gone, TOLERANCES['int8'], mask_threshold=0.1)  # 20 of 28 rows against all of them
    assert {row.output: row for row in lower.rows}['masks'].largest < 0.25
    assert len(lower.unmatched) == 2


def test_order_does_not_matter() -> None:
    reference = detections(masks=True)
    turned = {
        name: torch.cat([value[:, :10].flip(1), value[:, 10:]], 1) if value.ndim > 1 else value
        for name, value in reference.items()
    }
    assert compare(reference, turned, FP32).passed


def test_another_label_is_another_detection() -> None:
    reference = detections()
    verdict = compare(reference, changed(reference, 'labels', 0, 1), FP32)
    assert not verdict.passed
    assert 'image 0: only in the reference: label 0, score 0.900000, box (' in verdict.unmatched[0]
    assert 'image 0: only in the backend: label 1' in verdict.unmatched[1]


def test_one_detection_cannot_serve_two() -> None:
    reference = detections()
    reference['boxes'][0, 1], reference['scores'][0, 1] = reference['boxes'][0, 0], reference['scores'][0, 0]
    reference['labels'][0, 1] = 0
    once = changed(reference, 'boxes', 1, 300.0)
    assert compare(reference, reference, FP32).passed
    assert len(compare(reference, once, FP32).unmatched) == 2


def test_missing_and_surplus_detections_count() -> None:
    many, few = detections(10), detections(9)
    for reference, found in ((many, few), (few, many)):
        verdict = compare(reference, found, FP32)
        assert not verdict.passed
        assert verdict.detections == 10
        assert len(verdict.unmatched) == 1
    assert 'the last one: it stands at the limit of detections or of the score' in compare(many, few, FP32).unmatched[0]


def test_a_share_is_forgiven_and_listed() -> None:
    reference = detections(200, 200)
    verdict = compare(reference, changed(reference, 'boxes', 7, 5.0), FP32)
    assert verdict.passed
    assert verdict.rows[0].largest == pytest.approx(0.995)
    assert len(verdict.unmatched) == 2
    assert 'no tie' in verdict.unmatched[0]
    verdict = compare(reference, changed(reference, 'boxes', slice(0, 3), 5.0), FP32)
    assert not verdict.passed


def test_ties_are_told() -> None:
    reference = detections()
    reference['scores'][0, 4] = reference['scores'][0, 5]
    verdict = compare(reference, changed(reference, 'boxes', 4, 5.0), FP32)
    assert 'its score ties with another' in verdict.unmatched[0]


def test_nothing_on_either_side_is_equal_but_counted_as_nothing() -> None:
    verdict = compare(detections(0, masks=True), detections(0, masks=True), FP32)
    assert verdict.passed
    assert verdict.detections == 0
    assert not compare(detections(0), detections(3), FP32).passed


def test_a_missing_certificate_is_told_but_no_difference() -> None:
    found = detections()
    found['exact'][:] = False
    verdict = compare(detections(), found, FP32)
    assert verdict.passed
    assert verdict.rows[-1].output == 'exact'


def test_low_scores_are_left_out_where_precision_is_low() -> None:
    reference = detections(20)
    found = changed(reference, 'boxes', slice(15, 20), 99.0)
    assert not compare(reference, found, FP32).passed
    verdict = compare(reference, found, TOLERANCES['fp16'])
    assert verdict.passed
    assert verdict.detections == int((reference['scores'] >= 0.3).sum()) == 15


def test_a_detection_that_crosses_the_floor_is_no_other_one() -> None:
    reference = detections(16)
    reference['scores'][0, 15] = 0.3002
    found = changed(reference, 'scores', 15, -0.0004)
    for one, other in ((reference, found), (found, reference)):
        verdict = compare(one, other, TOLERANCES['fp16'])
        assert verdict.passed
        assert verdict.unmatched == ()
        assert verdict.detections == 16, 'counted, for one side reaches the floor'
    gone = changed(reference, 'boxes', 15, 99.0)
    verdict = compare(reference, gone, TOLERANCES['fp16'])
    assert len(verdict.unmatched) == 2
    assert verdict.detections == 16


@pytest.mark.parametrize('wrong', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['logits', 'scores', 'feature_0', 'boxes'])
def test_what_is_not_finite_fails_and_can_be_written(name: str, wrong: float) -> None:
    reference = detections() if name == 'boxes' else {name: torch.ones(1, 2, 3, 3)}
    found = {key: value.clone() for key, value in reference.items()}
    found[name][0, 1] = wrong
    for one, other in ((reference, found), (found, reference)):
        verdict = compare(one, other, FP32)
        assert not verdict.passed
        assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))['passed'] is False


def test_images_are_compared_apart() -> None:
    reference = detections(batch=2)
    swapped = {name: value.flip(0) for name, value in reference.items()}
    verdict = compare(reference, swapped, FP32)
    assert not verdict.passed
    assert {line.split(':')[0] for line in verdict.unmatched} == {'image 0', 'image 1'}


def test_label_maps_logits_and_scores() -> None:
    map_ = torch.zeros(1, 100, 100, dtype=torch.int64)
    other = map_.clone()
    other[0, 0, :1] = 1
    assert compare({'label_map': map_}, {'label_map': other}, FP32).passed
    other[0, 0, :2] = 1
    verdict = compare({'label_map': map_}, {'label_map': other}, FP32)
    assert not verdict.passed
    assert verdict.rows[0].largest == pytest.approx(0.9998)
    logits = torch.full((1, 2, 3, 3), -20.0)
    assert compare({'logits': logits}, {'logits': logits + 0.0019}, FP32).passed
    assert not compare({'logits': logits}, {'logits': logits + 0.0021}, FP32).passed
    scores = torch.tensor([[0.25, 0.75]])
    assert compare({'scores': scores}, {'scores': scores + 0.9e-4}, FP32).passed
    assert not compare({'scores': scores}, {'scores': scores + 2e-4}, FP32).passed


def test_the_reference_is_what_mmdet_predicts() -> None:
    model = models.build('mask-rcnn')
    graph = graph_of(model, batch_size=2, max_dets=12)
    x = models.normalized(model, images(2))
    found = library_outputs(model, graph, x)
    for index, sample in enumerate(models.predict(model, x)):
        boxes, count = sample.pred_instances.bboxes, int(found['num_dets'][index])
        assert count == 12
        assert len(boxes) == 20
        torch.testing.assert_close(
            found['boxes'][index, :count], boxes[:count], atol=1e-3, rtol=0
        )  # alone, not in a batch
        assert torch.equal(found['labels'][index, :count], sample.pred_instances.labels[:count])
    assert found['masks'].shape == (2, 12, 28, 28)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_reference_of_masks_is_of_the_detections_class() -> None:
    """Pasted by mmdet, the reference's masks are mmdet's own."""
    from mmtrtvit.deploy.ops.masks import paste_masks

    model = models.build('mask-rcnn')
    graph = graph_of(model)
    x = models.normalized(model, images(1))
    found = library_outputs(model, graph, x)
    own = models.predict(model, x)[0].pred_instances.masks
    pasted = paste_masks(found['masks'][0], found['boxes'][0], 96, 128)
    assert own.any()
    assert (pasted.bool() == own).float().mean() > 0.9999
