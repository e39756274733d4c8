"""Detectors as graphs, in PyTorch, against mmdet's own ``predict``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtrtvit.deploy.graphs import GraphOptions, two_stage
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.deploy.ops.nms import NMSOptions
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import (
    DETECTORS,
    HEIGHT,
    UNCLIPPED,
    WIDTH,
    assert_parity,
    eager,
    feed,
    graph_of,
    images,
)

AGNOSTIC = {'roi_head.bbox_head.reg_class_agnostic': True}
PER_CLASS_CASCADE = {f'roi_head.bbox_head.{stage}.reg_class_agnostic': False for stage in range(3)}
SOFTMAX_LOSS = dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)
DENSE_80 = {'bbox_head.num_classes': 80}
MASK_80 = {'roi_head.bbox_head.num_classes': 80, 'roi_head.mask_head.num_classes': 80}
TRTVIT_BACKBONE = {'backbone': models.TRTVIT, 'neck.in_channels': models.TRTVIT_CHANNELS}
TWINS_BACKBONE = {'backbone': models.TWINS}
ADAPTIVE = {f'roi_head.{kind}_roi_extractor.roi_layer.sampling_ratio': 0 for kind in ('bbox', 'mask')}
REFINED = {'with_box_refine': True}
TWO_STAGES = {'with_box_refine': True, 'as_two_stage': True}
NO_PROPOSALS = {'test_cfg.rpn.min_bbox_size': 1000}

# name of the case -> model, changes of its config, options of the graph; None: mmdet's own numbers
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    '80 classes': ('retinanet', DENSE_80, {}),
    '80 classes, two stages': ('mask-rcnn', MASK_80, {}),
    'class-agnostic boxes': ('faster-rcnn', AGNOSTIC, {}),
    'class-agnostic masks': ('mask-rcnn', {'roi_head.mask_head.class_agnostic': True}, {}),
    'class-agnostic boxes and masks': ('mask-rcnn', {**AGNOSTIC, 'roi_head.mask_head.class_agnostic': True}, {}),
    'boxes a class in a cascade': ('cascade-mask-rcnn', PER_CLASS_CASCADE, {}),
    'classes suppress each other': ('retinanet', {'test_cfg.nms.class_agnostic': True}, {}),
    'classes suppress each other, two stages': ('faster-rcnn', {'test_cfg.rcnn.nms.class_agnostic': True}, {}),
    'softmax proposals': ('faster-rcnn', {'rpn_head.loss_cls': SOFTMAX_LOSS}, {}),
    'softmax scores': ('retinanet', {'bbox_head.loss_cls': SOFTMAX_LOSS}, {}),
    'small boxes left out': ('retinanet', {'test_cfg.min_bbox_size': 30}, {}),
    'small proposals left out': ('faster-rcnn', {'test_cfg.rpn.min_bbox_size': 20}, {}),
    'boxes beyond the image': ('retinanet', {'bbox_head.bbox_coder.clip_border': False}, {}),
    'few rows': ('mask-rcnn', {}, dict(max_dets=7)),
    'more rows than candidates': ('retinanet', {'test_cfg.max_per_img': 300, 'test_cfg.score_thr': 0.4}, {}),
    'no fewer candidates a level': ('faster-rcnn', {'test_cfg.rpn.nms_pre': -1}, {}),
    'as mmcv 1 called it': ('gfl', {'test_cfg.nms': dict(_delete_=True, type='nms', iou_thr=0.1, max_num=-1)}, {}),
    'what YOLOX does not read': ('yolox', {'test_cfg.min_bbox_size': 40, 'test_cfg.max_per_img': 5}, {}),
    'cut by nms_pre': ('retinanet', {'test_cfg.nms_pre': 13}, {}),
    'cut by nms_pre, with centerness': ('atss', {'test_cfg.nms_pre': 13}, {}),
    'proposals of few a level': ('faster-rcnn', {'test_cfg.rpn.nms_pre': 9}, {}),
    'uint8': ('mask-rcnn', {}, dict(image_dtype='uint8')),
    'uint8, another order of channels': ('rtmdet', {}, dict(image_dtype='uint8')),
    'portrait': ('mask-rcnn', {}, dict(height=128, width=96)),
    'odd canvas': ('mask-rcnn', {}, dict(height=83, width=117)),
    'odd canvas, one stage': ('retinanet', {}, dict(height=83, width=117)),
    'TRT-ViT': ('mask-rcnn', TRTVIT_BACKBONE, {}),
    'TRT-ViT on an odd canvas': ('retinanet', TRTVIT_BACKBONE, dict(height=83, width=117)),
    'Twins': ('mask-rcnn', TWINS_BACKBONE, {}),
    'loop': ('mask-rcnn', {}, dict(nms=NMSOptions(form='loop'))),
    'own nodes': ('mask-rcnn', {}, dict(nms=NMSOptions(form='onnx'), roi_align='onnx')),
    'adaptive sampling': ('faster-rcnn', {'roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 0},
                          dict(roi_align='onnx')),
    'boxes refined by each layer': ('deformable-detr', REFINED, {}),
    'queries of the encoder': ('deformable-detr', TWO_STAGES, {}),
    'queries, odd canvas': ('dino', {}, dict(height=83, width=117)),
    'queries, 80 classes': ('dino', {'bbox_head.num_classes': 80, 'test_cfg.max_per_img': 300}, {}),
    'queries, few rows': ('detr', {}, dict(max_dets=7)),
    'queries, uint8': ('detr', {}, dict(image_dtype='uint8')),
    'queries of TRT-ViT': ('dino', {'backbone': dict(models.TRTVIT, out_indices=(1, 2, 3)),
                                    'neck.in_channels': models.TRTVIT_CHANNELS[1:]}, {}),
    'another sampling than the model has': ('mask-rcnn', ADAPTIVE, dict(roi_sampling_ratio=2)),
}  # fmt: skip
NOTHING = {
    'retinanet': {'test_cfg.score_thr': 0.9999},
    'atss': {'test_cfg.score_thr': 0.9999},
    'rtmdet': {'test_cfg.score_thr': 0.999999},
    'mask-rcnn': {'test_cfg.rcnn.score_thr': 0.9999},
    'cascade-mask-rcnn': {'test_cfg.rcnn.score_thr': 0.9999},
}


@pytest.mark.parametrize('batch', [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize('name', DETECTORS)
def test_detections_are_those_of_mmdet(name: str, batch: int) -> None:
    model = models.build(name)
    graph = graph_of(model, batch_size=batch)
    pictures = images(batch)
    found = eager(graph, feed(graph, model, pictures))
    verdict = assert_parity(model, graph, found, pictures, clipped=name not in UNCLIPPED)
    assert verdict.detections == batch * 20  # the models are made to find something everywhere


@pytest.mark.parametrize('case', CASES)
def test_every_setting_of_a_model(case: str) -> None:
    name, changes, options = CASES[case]
    model = models.build(name, changes)
    graph = graph_of(model, batch_size=2, **options)
    pictures = images(2, *graph.options.shape)
    found = eager(graph, feed(graph, model, pictures))
    verdict = assert_parity(
        model, graph, found, pictures, clipped=case != 'boxes beyond the image' and name not in UNCLIPPED
    )
    assert verdict.detections >= 14
    assert found['exact'].all()


@pytest.mark.parametrize('name', NOTHING)
def test_images_without_a_detection(name: str) -> None:
    model = models.build(name, NOTHING[name])
    graph = graph_of(model, batch_size=2)
    found = eager(graph, feed(graph, model, images(2)))
    assert found['num_dets'].tolist() == [0, 0]
    assert_parity(model, graph, found, images(2))


def test_images_without_a_proposal() -> None:
    model = models.build('mask-rcnn', NO_PROPOSALS)
    graph = graph_of(model, batch_size=2)
    found = eager(graph, feed(graph, model, images(2)))
    assert found['num_dets'].tolist() == [0, 0]
    assert_parity(model, graph, found, images(2))


@pytest.mark.parametrize('name', ['retinanet', 'mask-rcnn', 'cascade-mask-rcnn'])
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    model = models.build(name)
    pictures = images(2)
    together = graph_of(model, batch_size=2)
    alone = graph_of(model, batch_size=1)
    both = eager(together, feed(together, model, pictures))
    for index in range(2):
        one = eager(alone, feed(alone, model, pictures[index : index + 1]))
        assert one['num_dets'] == both['num_dets'][index]
        assert torch.equal(one['labels'][0], both['labels'][index])
        torch.testing.assert_close(one['boxes'][0], both['boxes'][index], atol=1e-3, rtol=0)


def test_the_certificate_is_withheld_where_rounds_do_not_suffice() -> None:
    model = models.build('retinanet', {'test_cfg.nms.iou_threshold': 0.05})
    few = graph_of(model, batch_size=2, nms=NMSOptions(rounds=2))
    enough = graph_of(model, batch_size=2)
    x = feed(few, model, images(2))
    assert not eager(few, x)['exact'].any()
    assert eager(enough, x)['exact'].all()


def test_the_certificate_is_withheld_where_candidates_were_lost() -> None:
    """Ten candidates of thousands, five of which suppress each other: there may be more that mmdet finds."""
    model = models.build('retinanet')
    graph = graph_of(model, batch_size=2, nms=NMSOptions(pre_top_k=10))
    found = eager(graph, feed(graph, model, images(2)))
    assert (found['num_dets'] < 20).all()
    assert not found['exact'].any()


@pytest.mark.parametrize(('inverted', 'proved'), [(2.2, False), (-1.5, True)])
def test_the_certificate_looks_at_boxes_that_are_too_small(inverted: float, proved: bool) -> None:
    """A level with more inverted boxes than pre_top_k, which are left out, hides a sound box if that scores less."""
    model = models.build('rtmdet', {'bbox_head.num_classes': 80, 'test_cfg.nms_pre': 30000, 'test_cfg.max_per_img': 2})
    shapes = [(8, 8), (4, 4), (2, 2)]
    logits = [torch.full((1, 80, *shape), -20.0) for shape in shapes]
    distances = [torch.full((1, 4, *shape), 8.0) for shape in shapes]
    logits[0].view(1, 80, 64)[0, :, :20] = inverted
    distances[0].view(1, 4, 64)[0, :, :20] = -4.0
    logits[0].view(1, 80, 64)[0, 0, 36] = 1.4
    logits[1].view(1, 80, 16)[0, 0, [0, 15]] = -0.85
    boxes, scores, _, _, exact = graph_of(model, 64, 64).detections((logits, distances))
    expected = model.bbox_head.predict_by_feat(logits, distances, batch_img_metas=[dict(img_shape=(64, 64))])[0]
    assert (torch.allclose(scores[0], expected.scores) and torch.allclose(boxes[0], expected.bboxes)) == proved
    assert exact.tolist() == [proved]


def test_the_certificate_looks_at_levels_cut_shorter_than_mmdet_cuts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals of levels with more anchors than may be sorted, all of which mmdet would look at."""
    monkeypatch.setattr(two_stage, 'MAX_TOP_K', 100)
    pictures = images(2)
    for wanted, proved in ((100, False), (10, True)):
        model = models.build('faster-rcnn', {'test_cfg.rpn': dict(nms_pre=-1, max_per_img=wanted)})
        graph = graph_of(model, batch_size=2)
        found = eager(graph, feed(graph, model, pictures))
        assert found['exact'].tolist() == [proved] * 2
        if proved:
            assert_parity(model, graph, found, pictures)


def test_the_graph_folds_a_copy_and_leaves_the_model_alone() -> None:
    model = models.build('retinanet', TRTVIT_BACKBONE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph_of(model)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('part', ['network', 'end2end'])
@pytest.mark.parametrize('name', ['retinanet', 'vfnet'])
def test_a_model_can_become_a_graph_twice(name: str, part: str) -> None:
    model = models.build(name)
    first, second = (build_part(model, GraphOptions(height=HEIGHT, width=WIDTH), part) for _ in range(2))
    assert not [value for module in first.modules() for value in vars(module).values() if torch.is_tensor(value)]
    image = models.normalized(model, images(1))
    for one, other in zip(eager(first, image).values(), eager(second, image).values(), strict=True):
        assert torch.equal(one, other)
