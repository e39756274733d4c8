"""Every config of the zoo is built and run: loss, backward, prediction, at a small size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmtrtvit.compat import CONFIG_ROOT
from tests.devices import ACCELERATORS

ZOO = sorted(
    path.relative_to(CONFIG_ROOT).as_posix()
    for path in CONFIG_ROOT.rglob('*.py')
    if '_base_' not in path.parts and 'deploy' not in path.parts
)

#: One of each kind: every task with TRT-ViT, the best known peers in one task.
QUICK = {
    'mask_rcnn_trtvit.py',
    'retinanet_trtvit.py',
    'upernet_trtvit.py',
    'semantic_fpn_trtvit.py',
    'trtvit_imagenet.py',
    'examples/cascade_rcnn_trtvit.py',
    'demo/mask_rcnn_trtvit_shapes.py',
    'twins/mask_rcnn_twins-svt-s.py',
    'twins/upernet_twins-pcpvt-s.py',
    'resnet/retinanet_resnet-50.py',
    'swin/semantic_fpn_swin-t.py',
    'pvtv2/retinanet_pvtv2-b2.py',
    'convnext/semantic_fpn_convnext-t.py',
    'poolformer/retinanet_poolformer-s24.py',
}
#: The families that the tests of every day leave to the slow ones.
MORE_FAMILIES = {
    'resnext/retinanet_resnext-101.py',
    'regnet/semantic_fpn_regnety-4gf.py',
    'nextvit/retinanet_nextvit-s.py',
    'cswin/upernet_cswin-t.py',
    'efficientformer/semantic_fpn_efficientformer-l1.py',
    'vanillanet/vanillanet-9_imagenet.py',
    'cvt/cvt-13_imagenet.py',
    'pvt/pvt-s_imagenet.py',
    't2t/t2t-vit-14_imagenet.py',
}

# The shortest side that leaves stage 4 of every backbone more than one cell, so that BatchNorm can train on it.
SIZE = 96


def detection_batch(classes: int) -> dict[str, Any]:
    """Two images, one with three boxes and masks, one with none."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(0)
    samples = []
    for count in (3, 0):
        corner = torch.rand(count, 2, generator=generator) * SIZE / 2
        boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * SIZE / 3], dim=1)
        masks = np.zeros((count, SIZE, SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo=image_meta())
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(0, classes, (count,), generator=generator),
            masks=BitmapMasks(masks, SIZE, SIZE),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return dict(inputs=images(generator), data_samples=samples)


def segmentation_batch(classes: int, ignore_index: int = 255) -> dict[str, Any]:
    """Two images with a random label map and some ignored pixels."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        labels = torch.randint(0, classes, (1, SIZE, SIZE), generator=generator)
        labels[:, :8] = ignore_index
        sample = SegDataSample(metainfo=image_meta())
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=images(generator), data_samples=samples)


def classification_batch(classes: int) -> dict[str, Any]:
    """Two labelled images."""
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    samples = [DataSample(metainfo=image_meta()).set_gt_label(label) for label in (0, classes - 1)]
    return dict(inputs=torch.stack(images(generator)), data_samples=samples)


def images(generator: torch.Generator) -> list[torch.Tensor]:
    return [torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator) for _ in range(2)]


def image_meta() -> dict[str, Any]:
    return dict(
        img_shape=(SIZE, SIZE),
        ori_shape=(SIZE, SIZE),
        pad_shape=(SIZE, SIZE),
        batch_input_shape=(SIZE, SIZE),
        scale_factor=(1.0, 1.0),
        img_path='random',
        flip=False,
    )


BATCHES: dict[str, Callable[..., dict[str, Any]]] = {
    'mmdet': detection_batch,
    'mmseg': segmentation_batch,
    'mmpretrain': classification_batch,
}


def number_of_classes(model: dict[str, Any]) -> int:
    """``num_classes`` wherever a config of one of the three libraries keeps it."""
    for head in ('roi_head', 'bbox_head', 'decode_head', 'head'):
        if head in model:
            found = model[head].get('bbox_head', model[head])
            return (found[0] if isinstance(found, list) else found)['num_classes']
    raise AssertionError(f'no head in {list(model)}')


def build(name: str) -> tuple[Config, BaseModel]:
    config = Config.fromfile(CONFIG_ROOT / name)
    init_default_scope(config.default_scope)
    if config.default_scope == 'mmseg':
        config.model.data_preprocessor.size = (SIZE, SIZE)
    if 'rpn_head' in config.model:
        # a handful of proposals: the heads' work is the same for each
        config.model.train_cfg.rpn_proposal.max_per_img = 40
        config.model.test_cfg.rpn.max_per_img = 40
    model_config = dict(config.model)
    if config.default_scope == 'mmpretrain':
        model_config['data_preprocessor'] = dict(type='ClsDataPreprocessor', **config.data_preprocessor)
    return config, revert_sync_batchnorm(MODELS.build(model_config))


def assert_fixed_roi_sampling(model: dict[str, Any]) -> None:
    """``sampling_ratio=0`` adapts to the RoI and has no static form in an engine."""
    heads = model.get('roi_head', {})
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if extractor in heads:
            assert heads[extractor].roi_layer.sampling_ratio == 2


def loss(model: BaseModel, batch: dict[str, Any], fixed_norms: bool = False) -> torch.Tensor:
    """Loss of a training step; BatchNorms of a few cells turn rounding into other gradients unless they are fixed."""
    model.train()
    for module in model.modules():
        if fixed_norms and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode='loss'))
    return total


@torch.no_grad()
def predict(model: BaseModel, batch: dict[str, Any]) -> list[Any]:
    model.eval()
    return model(**model.data_preprocessor(batch, training=False), mode='predict')


@pytest.mark.parametrize('name', [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ZOO])
def test_config_builds_trains_and_predicts(name: str) -> None:
    torch.manual_seed(0)
    config, model = build(name)
    options = {}
    if config.default_scope == 'mmseg':
        options = dict(ignore_index=config.model.decode_head.get('ignore_index', 255))
    batch = BATCHES[config.default_scope](number_of_classes(config.model), **options)

    assert_fixed_roi_sampling(config.model)

    total = loss(model, batch)
    assert torch.isfinite(total)
    assert total > 0
    total.backward()
    trained = {name: parameter for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert [key for key, value in trained.items() if value.grad is None or not value.grad.isfinite().all()] == []

    results = predict(model, batch)
    assert len(results) == 2
    if config.default_scope == 'mmseg':
        assert results[0].pred_sem_seg.data.shape == (1, SIZE, SIZE)


#: One of each task and head.
ON_OTHER_DEVICES = [
    'demo/mask_rcnn_trtvit_shapes.py',
    'examples/cascade_rcnn_trtvit.py',
    'trtvit/retinanet_trtvit-a.py',
    'trtvit/semantic_fpn_trtvit-a.py',
    'trtvit/trtvit-a_imagenet.py',
    'trtvit/upernet_trtvit-a.py',
]


def replay_proposals(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a two-stage detector train on its first step's proposals in each later step as well.

    Which boxes survive the NMS of a network that knows nothing hangs on the last bit of their scores.
    """
    if not hasattr(model, 'rpn_head'):
        return
    propose, kept = model.rpn_head.loss_and_predict, []

    def loss_and_predict(features: Any, *arguments: Any, **options: Any) -> Any:
        losses, proposals = propose(features, *arguments, **options)
        kept.extend(proposals if not kept else ())
        return losses, [each.to(features[0].device) for each in kept]

    monkeypatch.setattr(model.rpn_head, 'loss_and_predict', loss_and_predict)


@pytest.mark.parametrize('device', ACCELERATORS)
@pytest.mark.parametrize(
    'name',
    [
        *ON_OTHER_DEVICES,
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted((QUICK | MORE_FAMILIES) - {*ON_OTHER_DEVICES})),
    ],
)
def test_another_device_computes_what_the_cpu_does(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a training step, every gradient, and predictions that stay on the device."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    torch.manual_seed(0)
    config, model = build(name)
    for module in model.modules():  # a GPU draws other numbers
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
        elif hasattr(module, 'drop_prob'):
            module.drop_prob = 0.0
    batch = BATCHES[config.default_scope](number_of_classes(config.model))
    replay_proposals(model, monkeypatch)
    losses, gradients = [], []
    for where in ('cpu', device):
        torch.manual_seed(0)
        total = loss(model.to(where), batch, fixed_norms=True)
        model.zero_grad()
        total.backward()
        assert total.device.type == where
        losses.append(total.detach().cpu())
        gradients.append([p.grad.cpu() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert len(gradients[0]) == len(gradients[1]) > 0
    # some parameters have no gradient in theory (a key's bias), and what is computed for them is rounding
    rounding = 1e-6 * torch.stack([gradient.norm() for gradient in gradients[0]]).norm()
    for expected, actual in zip(*gradients, strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm() + rounding

    for result in predict(model, batch):
        found = [value for name, value in result.all_items() if name.startswith('pred')]
        assert found
        for value in found:
            tensors = [value] if isinstance(value, torch.Tensor) else value.values()
            assert {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)} == {device}


def test_quick_selection_names_existing_configs() -> None:
    assert set(ZOO) >= QUICK | MORE_FAMILIES
