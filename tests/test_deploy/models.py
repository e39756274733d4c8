"""Small models of every head family, with random weights whose scores and boxes look like those of trained ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import mmdet
import mmpretrain
import mmseg
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

import mmtrtvit  # noqa: F401  registers the backbone
from mmtrtvit.datasets.paint import paint
from mmtrtvit.datasets.shapes import arrange, scene_rng

LIBRARIES = {
    name: Path(module.__file__ or '').parent / '.mim' / 'configs'
    for name, module in (('mmdet', mmdet), ('mmseg', mmseg), ('mmpretrain', mmpretrain))
}

BACKBONE = dict(
    _delete_=True, type='ResNet', depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
    norm_cfg=dict(type='BN'), style='pytorch',
)  # fmt: skip
CHANNELS = [8, 16, 32, 64]
TRTVIT = dict(
    _delete_=True, type='TRTViT', head_dim=16, out_indices=(0, 1, 2, 3),
    arch=dict(channels=(32, 64, 64, 128), depths=(1, 1, 2, 2),
              blocks=['BottleNeck', 'BottleNeck', 'MixBlockB', 'MixBlockC'], stem_channels=16),
)  # fmt: skip
TRTVIT_CHANNELS = [32, 64, 64, 128]
#: Two stages of window and of global attention each, as Twins-SVT has them.
TWINS = dict(
    _delete_=True, type='mmpretrain.SVT', out_indices=(0, 1, 2, 3), qkv_bias=True, norm_after_stage=True,
    arch=dict(embed_dims=CHANNELS, num_heads=[1, 2, 2, 4], mlp_ratios=[2] * 4, depths=[2, 2, 2, 2],
              window_sizes=[7] * 4, sr_ratios=[8, 4, 2, 1], patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2]),
)  # fmt: skip
NECK = dict(in_channels=CHANNELS, out_channels=16)
DENSE = dict(num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16)
ROI_LAYER = dict(roi_layer=dict(sampling_ratio=2), out_channels=16)


def queries(levels: int) -> dict[str, Any]:
    """Changes that make mmdet's detection transformers small."""
    layers = dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64)))
    return dict(
        backbone=dict(BACKBONE, out_indices=(1, 2, 3)[-levels:]),
        neck=dict(in_channels=CHANNELS[-levels:]),
        encoder=layers,
        decoder=layers,
        num_queries=30,
        bbox_head=dict(num_classes=3),
        test_cfg=dict(max_per_img=20),
    )


def box_head(classes: int = 3, **changes: Any) -> dict[str, Any]:
    return dict(in_channels=16, fc_out_channels=32, num_classes=classes, **changes)


def two_stage(mask: bool, cascade: bool, classes: int = 3) -> dict[str, Any]:
    """Changes that make mmdet's two-stage detectors small."""
    heads: Any = [box_head(classes, type='Shared2FCBBoxHead', roi_feat_size=7, reg_class_agnostic=True,
                           bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4,
                                           target_stds=[0.1 / stage, 0.1 / stage, 0.2 / stage, 0.2 / stage]),
                           loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='SmoothL1Loss'))
                  for stage in (1, 2, 3)]  # fmt: skip
    mask_head = dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=classes)
    extra = dict(mask_roi_extractor=ROI_LAYER, mask_head=mask_head) if mask else {}
    return dict(
        backbone=BACKBONE,
        neck=NECK,
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=ROI_LAYER,
            bbox_head=heads if cascade else box_head(classes),
            **extra,
        ),
        test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=20)),
    )


def segmentor(classes: int = 3, **head: Any) -> dict[str, Any]:
    return dict(
        pretrained=None,
        backbone=BACKBONE,
        decode_head=dict(num_classes=classes, norm_cfg=dict(type='BN'), **head),
        auxiliary_head=None,
    )


#: Name -> the library, its config, and what makes it small.
MODELS_OF: dict[str, tuple[str, str, dict[str, Any]]] = {
    'retinanet': ('mmdet', '_base_/models/retinanet_r50_fpn.py',
                  dict(backbone=BACKBONE, neck=NECK, bbox_head=DENSE, test_cfg=dict(max_per_img=20))),
    'retinanet-sepbn': ('mmdet', '_base_/models/retinanet_r50_fpn.py', dict(
        backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
        bbox_head=dict(DENSE, type='RetinaSepBNHead', num_ins=5, norm_cfg=dict(type='BN')))),
    'atss': ('mmdet', 'atss/atss_r50_fpn_1x_coco.py',
             dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
                  bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'fcos': ('mmdet', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
             dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20), bbox_head=dict(
                 DENSE, norm_on_bbox=True, centerness_on_reg=True,
                 norm_cfg=dict(type='GN', num_groups=4)))),
    'rtmdet': ('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', dict(
        backbone=dict(widen_factor=0.125, deepen_factor=0.167, norm_cfg=dict(type='BN')),
        neck=dict(in_channels=[32, 64, 128], out_channels=16, norm_cfg=dict(type='BN')),
        bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, norm_cfg=dict(type='BN')),
        test_cfg=dict(nms_pre=300, max_per_img=20))),
    'freeanchor': ('mmdet', 'free_anchor/freeanchor_r50_fpn_1x_coco.py',
                   dict(backbone=BACKBONE, neck=NECK, bbox_head=DENSE, test_cfg=dict(max_per_img=20))),
    'yolof': ('mmdet', 'yolof/yolof_r50-c5_8xb8-1x_coco.py', dict(
        backbone=dict(BACKBONE, out_indices=(3,)), test_cfg=dict(score_thr=0.01, max_per_img=20),
        neck=dict(in_channels=64, out_channels=16, block_mid_channels=8),
        bbox_head=dict(num_classes=3, in_channels=16))),
    'ddod': ('mmdet', 'ddod/ddod_r50_fpn_1x_coco.py',
             dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
                  bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'autoassign': ('mmdet', 'autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
                   dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
                        bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'vfnet': ('mmdet', 'vfnet/vfnet_r50_fpn_1x_coco.py',
              dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
                   bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'gfl': ('mmdet', 'gfl/gfl_r50_fpn_1x_coco.py',
            dict(backbone=BACKBONE, neck=NECK, test_cfg=dict(max_per_img=20),
                 bbox_head=dict(DENSE, reg_max=4, norm_cfg=dict(type='GN', num_groups=4)))),
    'yolox': ('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py', dict(
        backbone=dict(BACKBONE, out_indices=(1, 2, 3)), neck=dict(in_channels=CHANNELS[1:], out_channels=16),
        bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16))),
    'detr': ('mmdet', 'detr/detr_r50_8xb2-150e_coco.py', queries(1)),
    'conditional-detr': ('mmdet', 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py', queries(1)),
    'dab-detr': ('mmdet', 'dab_detr/dab-detr_r50_8xb2-50e_coco.py', queries(1)),
    'deformable-detr': ('mmdet', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', queries(3)),
    'dino': ('mmdet', 'dino/dino-4scale_r50_8xb2-12e_coco.py', queries(3)),
    'faster-rcnn': ('mmdet', '_base_/models/faster-rcnn_r50_fpn.py', two_stage(mask=False, cascade=False)),
    'mask-rcnn': ('mmdet', '_base_/models/mask-rcnn_r50_fpn.py', two_stage(mask=True, cascade=False)),
    'cascade-rcnn': ('mmdet', '_base_/models/cascade-rcnn_r50_fpn.py', two_stage(mask=False, cascade=True)),
    'cascade-mask-rcnn': ('mmdet', '_base_/models/cascade-mask-rcnn_r50_fpn.py', two_stage(mask=True, cascade=True)),
    'upernet': ('mmseg', '_base_/models/upernet_r50.py', segmentor(in_channels=CHANNELS, channels=16)),
    'semantic-fpn': ('mmseg', '_base_/models/fpn_r50.py', dict(
        segmentor(in_channels=[16] * 4, channels=16), neck=NECK)),
    'fcn': ('mmseg', '_base_/models/fcn_r50-d8.py', segmentor(in_channels=64, channels=16)),
    'psp': ('mmseg', '_base_/models/pspnet_r50-d8.py', segmentor(in_channels=64, channels=16)),
    'aspp': ('mmseg', '_base_/models/deeplabv3_r50-d8.py', segmentor(in_channels=64, channels=16)),
    'binary': ('mmseg', '_base_/models/fcn_r50-d8.py', segmentor(
        2, in_channels=64, channels=16, out_channels=1, threshold=0.4, loss_decode=dict(use_sigmoid=True))),
    'ocr': ('mmseg', '_base_/models/ocrnet_r50-d8.py', dict(
        pretrained=None, backbone=BACKBONE, auxiliary_head=None, decode_head=[
            dict(type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1, concat_input=False,
                 num_classes=3, norm_cfg=dict(type='BN')),
            dict(type='OCRHead', in_channels=64, in_index=3, channels=16, ocr_channels=8, num_classes=3,
                 norm_cfg=dict(type='BN'))])),
    'resnet-classifier': ('mmpretrain', '_base_/models/resnet18.py', dict(
        backbone=dict(BACKBONE, out_indices=(3,)), head=dict(num_classes=7, in_channels=64, topk=(1,)))),
    'vit-classifier': ('mmpretrain', '_base_/models/vit-base-p16.py', dict(
        backbone=dict(_delete_=True, type='VisionTransformer', patch_size=16, img_size=64,
                      arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)),
        head=dict(num_classes=7, in_channels=32, loss=dict(_delete_=True, type='CrossEntropyLoss'),
                  topk=(1,)))),
}  # fmt: skip

CLASSIFIER_PREPROCESSOR = dict(type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.4, 57.1, 57.4],
                               to_rgb=True, num_classes=7)  # fmt: skip


def definition(name: str, changes: dict[str, Any] | None = None) -> ConfigDict:
    """The model's config, small, without pretrained weights, with ``changes`` (dotted keys) on top."""
    library, file, small = MODELS_OF[name]
    cfg = Config.fromfile(LIBRARIES[library] / file)
    cfg.merge_from_dict(copy.deepcopy(dict(model=small)))  # mmengine takes the _delete_ out of what it is given
    if library == 'mmpretrain':
        cfg.model.data_preprocessor = ConfigDict(CLASSIFIER_PREPROCESSOR)
    else:
        cfg.model.backbone.init_cfg = None
    cfg.merge_from_dict(copy.deepcopy({f'model.{key}': value for key, value in (changes or {}).items()}))
    return cfg.model


def build(name: str, changes: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """The model in eval mode: features that are neither all alike nor exploding, scores from 0 to nearly 1."""
    model = from_definition(name, definition(name, changes), seed)
    settle(model)
    return model.eval()


def from_definition(name: str, config: ConfigDict, seed: int = 0) -> Any:
    """The model as its config makes it."""
    init_default_scope(MODELS_OF[name][0])
    torch.manual_seed(seed)
    model = MODELS.build(config)
    model.train(False)  # as it predicts
    if hasattr(model, 'level_embed'):  # memory as it was found, until mmdet's init_weights
        nn.init.normal_(model.level_embed)
    return model


#: Last layers -> the largest output aside from the bias, and the bias (None: what makes the mean of each channel 0).
LAST_LAYERS: dict[str, tuple[float, float | None]] = {
    'retina_cls': (6.0, -4.0), 'atss_cls': (6.0, -4.0), 'conv_cls': (6.0, -4.0), 'rtm_cls': (6.0, -4.0),
    'rpn_cls': (4.0, 0.0), 'fc_cls': (6.0, 0.0), 'atss_centerness': (3.0, 0.0), 'conv_centerness': (3.0, 0.0),
    'retina_reg': (1.0, 0.0), 'atss_reg': (5.0, 0.0), 'rpn_reg': (1.0, 0.0), 'fc_reg': (4.0, 0.0),
    'conv_reg': (2.0, 2.0), 'rtm_reg': (2.0, 2.0), 'gfl_cls': (6.0, -4.0), 'gfl_reg': (4.0, 0.0),
    'vfnet_cls': (6.0, -4.0), 'vfnet_reg': (1.0, -1.0), 'vfnet_reg_refine': (0.5, 0.0), 'atss_iou': (3.0, 0.0),
    'cls_score': (6.0, -4.0), 'bbox_pred': (1.0, 0.0), 'object_pred': (3.0, 0.0),
    'cls_branches': (6.0, -4.0), 'multi_level_conv_cls': (4.0, -1.0), 'multi_level_conv_obj': (2.0, 0.0),
    'multi_level_conv_reg': (1.0, 1.0),
    'conv_logits': (6.0, None), 'conv_seg': (6.0, None), 'fc': (4.0, None), 'head': (4.0, None),
}  # fmt: skip


def last_layers(model: nn.Module) -> dict[nn.Module, tuple[float, float | None]]:
    """The layers of :data:`LAST_LAYERS`, those in a list of levels included."""
    found = {}
    for name, module in model.named_modules():
        key = next((part for part in reversed(name.split('.')) if not part.isdigit()), '')
        if key in LAST_LAYERS and isinstance(module, (nn.Conv2d, nn.Linear)):
            found[module] = LAST_LAYERS[key]
    return found


@torch.no_grad()
def settle(model: Any) -> None:
    """Give norms the statistics of pictures, and last layers outputs as a trained model has them."""
    x = normalized(model, torch.cat([pictures(2, 96, 128, first=4), noise(1, 96, 128)]))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    features = model.neck(model.backbone(x)) if model.with_neck else model.backbone(x)
    heads = [getattr(model, name) for name in ('rpn_head', 'bbox_head', 'decode_head') if hasattr(model, name)]
    heads = [] if hasattr(model, 'encoder') else heads  # of a transformer: no norms of batches behind the neck
    output = None
    for part in heads[0] if heads and isinstance(heads[0], nn.ModuleList) else heads:
        output = part(features) if output is None else part(features, output)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
    for _ in range(2):  # the boxes of the second time are those of the first one's weights
        _spread(model, x)


def _spread(model: Any, x: Tensor) -> None:
    layers, largest, means = last_layers(model), dict[nn.Module, float](), dict[nn.Module, Tensor]()

    def measure(module: Any, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Linear):  # (..., C)
            output = output.flatten(0, -2)
        bias = module.bias.view(-1, *[1] * (output.ndim - 2))
        largest[module] = max(largest.get(module, 1e-6), float((output - bias).abs().max()))
        means[module] = (output - bias).transpose(0, 1).flatten(1).mean(1)

    hooks = [module.register_forward_hook(measure) for module in layers]
    predict(model, x)
    for hook in hooks:
        hook.remove()
    for module, value in largest.items():
        most, bias = layers[module]
        module.weight.mul_(most / value)
        module.bias.copy_(-means[module] * most / value if bias is None else module.bias.new_tensor(bias))


def predict(model: Any, x: Tensor) -> Any:
    """The library's own prediction for normalised images ``(B, 3, H, W)``."""
    library = type(model).__module__.split('.')[0]
    shape = tuple(x.shape[-2:])
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    if library == 'mmdet':
        from mmdet.structures import DetDataSample

        return model.predict(x, [DetDataSample(metainfo=meta) for _ in x], rescale=False)
    if library == 'mmseg':
        from mmseg.structures import SegDataSample

        return model.predict(x, [SegDataSample(metainfo=meta) for _ in x])
    return model.predict(x)


def pictures(count: int, height: int, width: int, first: int = 0) -> Tensor:
    """Generated scenes of shapes, ``(count, H, W, 3)`` uint8 BGR: one corner of a larger scene each."""
    images = []
    for index in range(first, first + count):
        rng = scene_rng(0, 'train', index)
        image = paint(arrange(rng, index, 2 * max(height, width)), rng)
        images.append(image[:height, :width])
    return torch.from_numpy(np.stack(images))


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random bytes, ``(count, H, W, 3)`` uint8."""
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip


def normalized(model: Any, images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` float32 as the model's own data preprocessor makes it of ``cv2.imread``'s images, not padded."""
    inputs = model.data_preprocessor(dict(inputs=list(images.permute(0, 3, 1, 2))), training=False)['inputs']
    return inputs[..., : images.shape[1], : images.shape[2]].contiguous()
