"""Words of a command line to configs; modules of a graph to parts of a detector."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrtvit.benchmark.breakdown import PARTS, RULES, breakdown, part_of
from mmtrtvit.benchmark.models import MODEL_TASKS, backbone_of, deploy_task, find_model, known_models
from mmtrtvit.deploy.backends import LayerCost
from mmtrtvit.errors import UserError
from tests.tiny import make_detector


@pytest.mark.parametrize(
    ('word', 'task', 'name', 'backbone'),
    [
        ('trtvit-c', 'mask_rcnn', 'mask_rcnn_trtvit', 'trtvit-c'),
        ('trtvit-a', 'retinanet', 'retinanet_trtvit-a', 'trtvit-a'),
        ('trtvit-c', 'imagenet', 'trtvit_imagenet', 'trtvit-c'),
        ('swin-t', 'upernet', 'upernet_swin-t', 'swin-t'),
        ('retinanet_swin-t', 'mask_rcnn', 'retinanet_swin-t', 'swin-t'),
        ('mask_rcnn_trtvit.py', 'retinanet', 'mask_rcnn_trtvit', 'trtvit-c'),
        ('trtvit/mask_rcnn_trtvit_3x.py', 'mask_rcnn', 'mask_rcnn_trtvit_3x', 'trtvit-c'),
        ('configs/twins/semantic_fpn_twins-svt-s.py', 'mask_rcnn', 'semantic_fpn_twins-svt-s', 'twins-svt-s'),
    ],
)
def test_words_for_models(word: str, task: str, name: str, backbone: str) -> None:
    model = find_model(word, task)
    assert (model.name, model.backbone) == (name, backbone)
    assert model.cfg.model


def test_any_config_file(tmp_path: Path) -> None:
    model = find_model(str(make_detector(tmp_path)))
    assert model.backbone == ''
    assert deploy_task(model.cfg) == 'detection'


def test_unknown_words_are_refused_with_what_is_near() -> None:
    with pytest.raises(UserError, match=r'did you mean.*twins-svt-s'):
        find_model('twins-svt-x')
    with pytest.raises(UserError, match=r'no_such\.py'):
        find_model('no_such.py')


def test_every_backbone_of_the_zoo_has_its_name_and_task() -> None:
    tasks = {
        'mask_rcnn': 'instance-seg', 'retinanet': 'detection', 'upernet': 'segmentation',
        'semantic_fpn': 'segmentation', 'imagenet': 'classification',
    }  # fmt: skip
    assert set(tasks) == set(MODEL_TASKS)
    for stem in known_models():
        assert not set(backbone_of(stem).split('_')) & {'mask', 'rcnn', 'retinanet', 'upernet', 'imagenet', '3x'}, stem
    for task, name in tasks.items():
        assert deploy_task(find_model('trtvit-c', task).cfg) == name


def test_layers_find_their_part_by_any_name_a_backend_gives_them() -> None:
    scopes = {
        'node_conv': 'backbone.layer1.0.conv1', 'relu_1': 'neck.lateral', 'node_Gemm_7': 'roi_head.bbox_head.fc',
        'node_nms': 'detections.nms', 'node_grid': 'roi_head.box_features', 'node_mask': 'roi_head.mask.heads.0.convs',
    }  # fmt: skip
    names = {
        'node_conv': 'backbone', 'relu_1_nchwc': 'neck', 'fused node_Gemm_7': 'heads', 'node_nms': 'NMS',
        '[node_grid + node_unknown]': 'RoIAlign', 'node_mask/MatMulAddFusion': 'mask head', 'ReorderInput_3': 'other',
    }  # fmt: skip
    costs = [LayerCost(name, '', 2.0**number, 0.0) for number, name in enumerate(names)]
    found = breakdown(costs, scopes)
    assert found == {part: 2.0**number for number, part in enumerate(names.values())}
    assert list(found) == [part for part in PARTS if part in found]
    assert sum(found.values()) == sum(cost.milliseconds for cost in costs)


def test_a_fused_layer_belongs_where_it_begins() -> None:
    scopes = {'node_conv2d_1': 'backbone.stem', 'node_matmul_9': 'roi_head.bbox_head.fc'}
    costs = [LayerCost('{ForeignNode[node_conv2d_1...node_matmul_9]}', '', 1.0, 1.0)]
    assert breakdown(costs, scopes) == {'backbone': 1.0}


def test_modules_of_pytorch_are_paths_already() -> None:
    costs = [LayerCost('backbone.stem.0', '', 1.0, 0), LayerCost('graph.neck.0', '', 2.0, 0), LayerCost('', '', 4.0, 0)]
    assert breakdown(costs, {}) == {'backbone': 1.0, 'neck': 2.0, 'other': 4.0}
    assert part_of('backbones.x') == 'other'
    assert {part for _, part in RULES} | {'other'} == set(PARTS)
