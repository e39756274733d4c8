"""What has no graph is refused by name, with what there is and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmtrtvit.deploy.graphs import DENSE_HEADS, MODEL_GRAPHS, GraphOptions, UnsupportedModelError, build_graph
from mmtrtvit.deploy.graphs.base import register
from mmtrtvit.deploy.graphs.parts import build_part
from mmtrtvit.deploy.ops.nms import NMSOptions
from mmtrtvit.errors import UserError
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import graph_of

SOFT_NMS = dict(type='soft_nms', iou_threshold=0.5)
SHARED_HEAD = dict(type='ResLayer', depth=50, stage=3, stride=2, style='pytorch', norm_cfg=dict(type='BN'))

# what is changed in which model -> what is said
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ('retinanet', {'bbox_head.type': 'PISARetinaHead'}, {},
     r'dense head PISARetinaHead has no deployable graph\. Supported: ATSSHead, AutoAssignHead, DDODHead, FCOSHead, '
     r'FreeAnchorRetinaHead, GFLHead, RTMDetHead, RTMDetSepBNHead, RetinaHead, RetinaSepBNHead, VFNetHead, YOLOFHead, '
     r'YOLOXHead\. docs/deployment\.md, "Adding a head", shows how to add one'),
    ('faster-rcnn', {'roi_head.type': 'DoubleHeadRoIHead', 'roi_head.reg_roi_scale_factor': 1.3}, {},
     r'RoI head DoubleHeadRoIHead has no deployable graph\. Supported: CascadeRoIHead, StandardRoIHead\. docs/'),
    ('faster-rcnn', {'rpn_head': dict(
        _delete_=True, type='EmbeddingRPNHead', num_proposals=10, proposal_feature_channel=16)}, {},
     'rpn_head EmbeddingRPNHead has no graph: RPNHead has'),
    ('retinanet', {'test_cfg.nms': SOFT_NMS}, {},
     r"RetinaHead\.test_cfg\.nms\.type='soft_nms' has no static form: set it to nms and measure the accuracy"),
    ('faster-rcnn', {'test_cfg.rpn.nms': SOFT_NMS}, {}, r"rpn_head\.test_cfg\.nms\.type='soft_nms' has no static form"),
    ('faster-rcnn', {'test_cfg.rcnn.nms': SOFT_NMS}, {}, r"roi_head\.test_cfg\.nms\.type='soft_nms' has no static"),
    ('faster-rcnn', {'roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 0}, {},
     r'roi_head\.bbox_roi_extractor: roi_layer\.sampling_ratio=0 samples adaptively, which has no static form\. Train '
     r"with 2, .* set roi_sampling_ratio=2 in the deploy config .* or roi_align='onnx' for ONNX Runtime"),
    ('mask-rcnn', {'roi_head.mask_roi_extractor.roi_layer.sampling_ratio': 0}, {},
     r'roi_head\.mask_roi_extractor: roi_layer\.sampling_ratio=0'),
    ('faster-rcnn', {'roi_head.bbox_roi_extractor.roi_layer.pool_mode': 'max'}, {},
     r"roi_head\.bbox_roi_extractor: roi_layer\.pool_mode='max' has no graph: avg has"),
    ('faster-rcnn', {'roi_head.bbox_roi_extractor.type': 'GenericRoIExtractor'}, {},
     'GenericRoIExtractor of RoIAlign has no graph: SingleRoIExtractor of RoIAlign has'),
    ('faster-rcnn', {'roi_head.shared_head': SHARED_HEAD}, {},
     r'StandardRoIHead with a shared_head \(C4 detectors\) has no graph: FPN ones have'),
    ('mask-rcnn', {'roi_head.mask_head.type': 'HTCMaskHead'}, {},
     'mask head HTCMaskHead has no graph: FCNMaskHead has'),
    ('retinanet', {'test_cfg.max_per_img': 20}, dict(max_dets=21),
     r'max_dets=21: the model keeps test_cfg\.max_per_img=20: raise that or leave it out'),
    ('faster-rcnn', {'test_cfg.rcnn.max_per_img': 20}, dict(max_dets=30), r'max_dets=30: the model keeps .*=20'),
    ('faster-rcnn', {'test_cfg.rcnn.max_per_img': -1}, {}, r'test_cfg\.max_per_img=-1 keeps everything: set it'),
    ('yolox', {'test_cfg.max_per_img': 20}, dict(max_dets=None), 'YOLOX keeps every detection: set max_dets'),
    ('retinanet', {'test_cfg.max_per_img': -1}, dict(max_dets=20), r'test_cfg\.max_per_img=-1: set it to a'),
    ('retinanet', {'test_cfg.nms_pre': 0}, {}, r'test_cfg\.nms_pre=0: set it to a number, such as 1000 and 100'),
    ('gfl', {'test_cfg.nms_pre': -1}, {}, r'test_cfg\.nms_pre=-1: set it to a number'),
    ('gfl', {'test_cfg.nms': None}, {}, r"GFLHead\.test_cfg\.nms has no iou_threshold: set nms=dict"),
    ('gfl', {'test_cfg': None}, {}, r'GFLHead\.test_cfg\.nms has no iou_threshold'),
    ('gfl', {'test_cfg.nms.max_num': 5}, {}, r'GFLHead\.test_cfg\.nms\.max_num=5 has no graph: leave it out'),
    ('faster-rcnn', {'test_cfg.rcnn.nms.score_threshold': 0.5}, {}, r'roi_head\.test_cfg\.nms\.score_threshold=0'),
    ('faster-rcnn', {'test_cfg.rpn.nms.offset': 1}, {}, r'rpn_head\.test_cfg\.nms\.offset=1 has no graph'),
    ('faster-rcnn', {'test_cfg.rpn.nms.class_agnostic': True}, {}, r'rpn_head\.test_cfg\.nms\.class_agnostic=True'),
    ('fcos', {'bbox_head.loss_cls': dict(
        _delete_=True, type='CrossEntropyCustomLoss', use_sigmoid=True, num_classes=3)}, {},
     r'FCOSHead\.loss_cls has an activation of its own: sigmoid and softmax have graphs'),
    ('detr', {'test_cfg.max_per_img': 31}, {}, r'DETRHead\.test_cfg\.max_per_img=31: there are 30 to choose'),
    ('faster-rcnn', {'test_cfg.rpn.max_per_img': 4000}, {},
     r'rpn_head\.test_cfg\.max_per_img=4000: TensorRT sorts at most 3840 rows, lower it'),
    ('retinanet', {'bbox_head.bbox_coder': dict(_delete_=True, type='TBLRBBoxCoder', normalizer=4.0)}, {},
     'box coder TBLRBBoxCoder has no graph: DeltaXYWHBBoxCoder and DistancePointBBoxCoder have'),
]  # fmt: skip


def eager_once(model: Any, **options: Any) -> None:
    graph = graph_of(model, **options)
    graph(graph.example_input())  # the box coder is met when it is used


@pytest.mark.parametrize(('name', 'changes', 'options', 'message'), REFUSED)
def test_refused(name: str, changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    model = models.from_definition(name, models.definition(name, changes))
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        eager_once(model, **options)
    assert isinstance(caught.value, UserError)  # the tools print it without a traceback


def test_a_model_without_a_graph_is_refused_by_its_name() -> None:
    """DDQ and the like; the model itself would take minutes to build."""
    unknown = type('DDQDETR', (nn.Module,), {})
    supported = ', '.join(sorted(MODEL_GRAPHS))
    with pytest.raises(
        UnsupportedModelError, match=rf'^model DDQDETR has no deployable graph\. Supported: {supported}\. '
    ):
        build_graph(unknown(), GraphOptions(height=64, width=64))


def test_a_transformer_has_no_part_between_neck_and_head() -> None:
    model = models.from_definition('detr', models.definition('detr'))
    with pytest.raises(UnsupportedModelError, match=r'^DETR has a transformer before its head, .* "end2end" work'):
        build_part(model, GraphOptions(height=64, width=64), 'network')


def test_a_subclass_may_compute_something_else() -> None:
    model = models.build('retinanet')
    model.bbox_head.__class__ = type('MyRetinaHead', (type(model.bbox_head),), {})
    with pytest.raises(UnsupportedModelError, match=r'dense head MyRetinaHead has no deployable graph'):
        graph_of(model)
    try:
        register(DENSE_HEADS, 'MyRetinaHead')(DENSE_HEADS['RetinaHead'])
        graph = graph_of(model)
        assert graph(torch.zeros(graph.input_shape))[0].shape == (1, 20, 4)
    finally:
        del DENSE_HEADS['MyRetinaHead']


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match='ATSSHead has a graph already: ATSSHead'):
        register(DENSE_HEADS, 'ATSSHead')(DENSE_HEADS['RetinaHead'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(height=0), r'height=0: a whole number of at least 1 is needed'),
        (dict(width=64.0), r'width=64\.0: a whole number'),
        (dict(batch_size=True), r'batch_size=True: a whole number'),
        (dict(max_dets=0), r'max_dets=0: a whole number'),
        (dict(roi_sampling_ratio=-1), r'roi_sampling_ratio=-1: a whole number'),
        (dict(image_dtype='float16'), r"image_dtype='float16' is not one of float32, uint8"),
        (dict(roi_align='plugin'), r"roi_align='plugin' is not one of static, onnx"),
        (dict(segmentation_output='mask'), r"segmentation_output='mask' is not one of label_map, logits"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphOptions(**{'height': 64, 'width': 64, **options})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(form='plugin'), r"form='plugin' is not one of static, loop, onnx"),
        (dict(pre_top_k=3841), r'k=3841 is not within 1 \.\. 3840, .* lower nms_pre or pre_top_k in the deploy config'),
        (dict(pre_top_k=0), r'k=0 is not within 1 \.\. 3840'),
        (dict(rounds=1), r'rounds=1; two at least'),
    ],
)
def test_wrong_nms_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NMSOptions(**options)


@pytest.mark.parametrize(('options', 'name'), [({}, r'test_cfg\.max_per_img'), (dict(max_dets=4000), 'max_dets')])
def test_more_detections_than_can_be_sorted(options: dict[str, int], name: str) -> None:
    model = models.build('retinanet', {'test_cfg.max_per_img': 4000})
    with pytest.raises(UnsupportedModelError, match=f'{name}=4000: TensorRT sorts at most 3840 rows, lower it'):
        graph_of(model, **options)
