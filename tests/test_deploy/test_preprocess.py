"""Images to a canvas and back, against mmdet, mmseg and mmpretrain themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import PixelData

import mmtrtvit  # noqa: F401
from mmtrtvit.apis.config import load_config
from mmtrtvit.deploy.backends import BackendError, EngineCard, TensorSpec
from mmtrtvit.deploy.graphs.base import Normalize
from mmtrtvit.deploy.preprocess import ImageError, Letterbox, Placement, read_image
from mmtrtvit.deploy.sizing import padding_of, sizing_of_classifier

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
sizes = st.integers(1, 90)
canvases = st.integers(8, 90)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def card(shape: tuple[int | str, ...] = (1, 3, 64, 96), dtype: str = 'float32', **normalization: Any) -> EngineCard:
    text = dict.fromkeys(
        ('model', 'config', 'checkpoint', 'checkpoint_sha256', 'onnx', 'onnx_sha256', 'engine_sha256',
         'backend', 'backend_version', 'precision_asked', 'precision_obtained', 'precision_source', 'date', 'command'),
        '',
    )  # fmt: skip
    return EngineCard(
        **text, precision_share=1.0, inputs=(TensorSpec('image', dtype, shape),), outputs=(),
        normalization=normalization, classes=(), opset=20,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, canvases, canvases, st.booleans())
def test_canvas_is_what_mmdets_own_steps_give(h: int, w: int, height: int, width: int, to_rgb: bool) -> None:
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    image = noise(h, w)
    scale = min(height / h, width / w)
    if int(h * scale + 0.5) == 0 or int(w * scale + 0.5) == 0:
        return  # mmcv cannot: the next test
    canvas = Letterbox(height, width, mean=MEAN, std=STD, to_rgb=to_rgb)(image)
    resized = mmcv.imrescale(image, scale)
    assert canvas.placement.img_shape == resized.shape[:2]
    assert canvas.placement.ori_shape == (h, w)
    assert canvas.placement.scale_factor == (resized.shape[1] / w, resized.shape[0] / h)
    preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=to_rgb)
    tensor = torch.from_numpy(resized).permute(2, 0, 1)
    inputs = preprocessor({'inputs': [tensor], 'data_samples': None})['inputs'][0]
    assert canvas.tensor.shape == (3, height, width)
    assert torch.equal(canvas.tensor[:, : resized.shape[0], : resized.shape[1]], inputs)
    outside = canvas.tensor.clone()
    outside[:, : resized.shape[0], : resized.shape[1]] = 0
    assert not outside.any(), 'padded with zeros after normalising'
    assert np.array_equal(canvas.picture, resized[:, :, ::-1])


def test_same_image_as_mmdets_resize_where_image_and_canvas_lie_alike() -> None:
    from mmdet.datasets.transforms import Resize

    image = noise(480, 640)
    theirs = Resize(scale=(1333, 800), keep_ratio=True)({'img': image, 'height': 480, 'width': 640})
    ours, placement = Letterbox(800, 1333).fit(image)
    assert np.array_equal(ours, theirs['img'])
    assert placement.img_shape == theirs['img_shape']
    assert placement.scale_factor == theirs['scale_factor']


def test_a_hair_thin_image_keeps_a_pixel() -> None:
    canvas = Letterbox(32, 32)(noise(1, 5000))
    assert canvas.placement.img_shape == (1, 32)
    boxes = canvas.placement.undo_boxes(torch.tensor([[0.0, 0.0, 32.0, 1.0]]))
    assert torch.allclose(boxes, torch.tensor([[0.0, 0.0, 5000.0, 1.0]]))


@pytest.mark.parametrize('to_rgb', [False, True])
def test_uint8_canvas_normalised_in_the_graph_is_the_float_canvas(to_rgb: bool) -> None:
    image = noise(40, 90)
    box = Letterbox(64, 96, mean=MEAN, std=STD, to_rgb=to_rgb)
    raw = Letterbox(64, 96, 'uint8', mean=MEAN, std=STD, to_rgb=to_rgb)(image)
    assert raw.tensor.shape == (64, 96, 3)
    assert raw.tensor.dtype == torch.uint8
    as_tensors = {name: torch.tensor(value)[:, None, None] for name, value in (('mean', MEAN), ('std', STD))}
    graph = Normalize(SimpleNamespace(**as_tensors, channel_conversion=to_rgb), 'uint8')
    expected, h, w = box(image).tensor, *raw.placement.img_shape
    found = graph(raw.tensor[None])[0]
    assert torch.equal(found[:, :h, :w], expected[:, :h, :w])
    assert float((found - expected).abs().max()) <= 0.5 / min(STD), 'the padding is the rounded mean'


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, st.lists(st.tuples(*[st.floats(-20, 120)] * 4), min_size=0, max_size=4))
def test_boxes_come_back_and_are_clipped(h: int, w: int, corners: list[tuple[float, ...]]) -> None:
    _, placement = Letterbox(64, 96).fit(noise(h, w))
    boxes = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
    on_canvas = boxes * boxes.new_tensor(placement.scale_factor * 2)
    assert torch.allclose(placement.undo_boxes(on_canvas, clip=False), boxes)
    clipped = placement.undo_boxes(on_canvas)
    expected = torch.stack([boxes[:, 0].clamp(0, w), boxes[:, 1].clamp(0, h),
                            boxes[:, 2].clamp(0, w), boxes[:, 3].clamp(0, h)], 1)  # fmt: skip
    assert torch.allclose(clipped, expected)


@pytest.mark.parametrize(('h', 'w'), [(48, 64), (64, 48), (333, 500), (20, 31)])
def test_masks_are_pasted_as_mmdet_pastes_them(h: int, w: int) -> None:
    """Also of boxes that stick out of the image: its mask stays where it was, the box alone is clipped."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    generator = torch.Generator().manual_seed(h)
    _, placement = Letterbox(64, 96).fit(noise(h, w))
    inner = torch.tensor(placement.img_shape[::-1])
    first = torch.rand(12, 2, generator=generator) * (inner + 3) - 5  # mmdet itself fails on one wholly outside
    boxes = torch.cat([first, first + 2 + torch.rand(12, 2, generator=generator) * 40], 1)
    logits = torch.randn(12, 3, 28, 28, generator=generator)
    labels = torch.arange(12) % 3
    meta = {'scale_factor': placement.scale_factor, 'ori_shape': (h, w)}
    theirs = FCNMaskHead(num_convs=0, in_channels=4, conv_out_channels=4, num_classes=3)._predict_by_feat_single(
        logits, boxes.clone(), labels, meta, SimpleNamespace(mask_thr_binary=0.5), rescale=True
    )
    ours = placement.undo_masks(logits.sigmoid()[torch.arange(12), labels], boxes)
    assert ours.shape == (12, h, w)
    assert ours.any()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize('align_corners', [False, True])
def test_logits_are_resized_as_mmseg_resizes_them(align_corners: bool) -> None:
    from mmseg.models.segmentors.base import BaseSegmentor
    from mmseg.structures import SegDataSample

    h, w = 37, 80
    _, placement = Letterbox(64, 96).fit(noise(h, w))
    logits = torch.randn(1, 5, 64, 96, generator=torch.Generator().manual_seed(0))
    inner = placement.img_shape
    meta = {'ori_shape': (h, w), 'img_shape': inner, 'padding_size': (0, 96 - inner[1], 0, 64 - inner[0])}
    sample = SegDataSample(metainfo=meta)
    segmentor: Any = SimpleNamespace(align_corners=align_corners)
    theirs: Any = BaseSegmentor.postprocess_result(segmentor, logits, [sample])[0]
    found = placement.undo_logits(logits[0], align_corners)
    assert torch.allclose(found, theirs.seg_logits.data, atol=1e-6)
    assert isinstance(theirs.pred_sem_seg, PixelData)
    assert torch.equal(found.argmax(0), theirs.pred_sem_seg.data[0])


def test_label_map_takes_the_nearest_pixel() -> None:
    original = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (16, 24)))
    canvas = torch.full((64, 128), 77)
    canvas[:64, :96] = original.repeat_interleave(4, 0).repeat_interleave(4, 1)
    placement = Placement((4.0, 4.0), (64, 96), (16, 24))
    assert torch.equal(placement.undo_label_map(canvas), original)
    larger = Placement((0.5, 0.5), (64, 96), (128, 192)).undo_label_map(canvas)
    assert torch.equal(larger, canvas[:64, :96].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert 77 not in Placement((1.1, 1.1), (64, 96), (58, 87)).undo_label_map(canvas)


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, st.sampled_from([(36, 32), (64, 64), (51, 33)]))
def test_classifiers_get_what_their_own_pipeline_gives(h: int, w: int, edge_and_crop: tuple[int, int]) -> None:
    from mmpretrain.datasets.transforms import ResizeEdge

    edge, crop = edge_and_crop
    if max(h, w) > 40 * min(h, w):
        return
    pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=edge, edge='short'),
                dict(type='CenterCrop', crop_size=crop), dict(type='PackInputs')]  # fmt: skip
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))
    results = {'img': noise(h, w)}
    for step in (ResizeEdge(scale=edge), mmcv.transforms.CenterCrop(crop_size=crop)):
        results = step(results)
    found = Letterbox(crop, crop, **sizing_of_classifier(cfg, crop, crop))(noise(h, w))
    assert np.array_equal(found.image, results['img'])
    assert found.tensor.shape == (3, crop, crop)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.sampled_from([(40, 32), (64, 64), (51, 33)]), st.booleans())
def test_the_other_ways_to_crop(h: int, w: int, edge_and_crop: tuple[int, int], square: bool) -> None:
    """EfficientNet's, which cuts first, and that of the fine-grained data sets, which stretches first."""
    from mmpretrain.datasets.transforms import EfficientNetCenterCrop

    edge, crop = edge_and_crop
    if max(h, w) > 40 * min(h, w) or (not square and crop * min(h, w) < edge):
        return
    stretch = dict(type='Resize', scale=edge), dict(type='CenterCrop', crop_size=crop)
    first = (dict(type='EfficientNetCenterCrop', crop_size=crop, crop_padding=edge - crop),)
    pipeline = [dict(type='LoadImageFromFile'), *(stretch if square else first), dict(type='PackInputs')]
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))
    steps: Any = (
        (mmcv.transforms.Resize(scale=(edge, edge)), mmcv.transforms.CenterCrop(crop_size=crop))
        if square
        else (EfficientNetCenterCrop(crop, edge - crop),)
    )
    results = {'img': noise(h, w)}
    for step in steps:
        results = step(results)
    found = Letterbox(crop, crop, **sizing_of_classifier(cfg, crop, crop))(noise(h, w))
    assert np.array_equal(found.image, results['img'])
    assert found.placement.ori_shape == (h, w)


PADS: list[tuple[Any, tuple[float, ...]]] = [
    (dict(pad_val=dict(img=(10, 200, 90))), (10.0, 200.0, 90.0)),
    (dict(pad_val=dict(img=114, seg=255)), (114.0,) * 3),
    (dict(pad_val=7), (7.0,) * 3),
    ({}, (0.0,) * 3),
]


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, canvases, canvases, st.booleans(), st.sampled_from(PADS))
def test_padding_is_what_mmdets_pad_gives(
    h: int, w: int, height: int, width: int, to_rgb: bool, pad: tuple[Any, tuple[float, ...]]
) -> None:
    """RTMDet's pipeline pads before normalising, with a grey that its data preprocessor then shifts and scales."""
    from mmdet.datasets.transforms import Pad
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    pipeline = [dict(type='Resize', scale=(width, height), keep_ratio=True), dict(type='mmdet.Pad', **pad[0])]
    cfg = dict(test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))))
    colour = padding_of(cfg)
    assert colour == pad[1]
    canvas = Letterbox(height, width, mean=MEAN, std=STD, to_rgb=to_rgb, pad=colour)(noise(h, w))
    padded = Pad(size=(width, height), **pad[0])({'img': canvas.image})['img']
    preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=to_rgb)
    theirs = preprocessor({'inputs': [torch.from_numpy(padded).permute(2, 0, 1)], 'data_samples': None})['inputs'][0]
    assert torch.equal(canvas.tensor, theirs)
    as_bytes = Letterbox(height, width, 'uint8', mean=MEAN, std=STD, to_rgb=to_rgb, pad=colour)(noise(h, w))
    assert np.array_equal(as_bytes.tensor.numpy(), padded)


def test_padding_of_mmdets_configs() -> None:
    assert padding_of(load_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco')) == (114.0,) * 3
    assert padding_of(load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco')) is None
    with pytest.raises(ValueError, match=r'pad=\(1\.0, 2\.0\): three numbers from 0 to 255'):
        Letterbox(8, 8, pad=(1, 2))


def test_a_crop_of_another_size_keeps_the_ratio_of_edge_and_crop() -> None:
    pipeline = [dict(type='mmpretrain.ResizeEdge', scale=256, interpolation='bicubic', backend='pillow'),
                dict(type='CenterCrop', crop_size=224)]  # fmt: skip
    cfg = dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))
    found = sizing_of_classifier(cfg, 112, 112)
    assert found == dict(mode='crop', short_edge=128, interpolation='bicubic', resize_backend='pillow')
    assert sizing_of_classifier(None, 224, 224)['short_edge'] == 256
    resize = dict(test_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize', scale=32)])))
    assert sizing_of_classifier(resize, 32, 32)['mode'] == 'stretch'


def test_an_image_file_is_read_upright_as_by_openmmlab(tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    path = tmp_path / 'turned.jpg'
    Image.fromarray(noise(20, 30)).save(path, exif=exif)
    found = read_image(path)
    assert found.shape == (30, 20, 3)
    assert np.array_equal(found, LoadImageFromFile()({'img_path': str(path)})['img'])
    cv2.imwrite(str(tmp_path / 'grey.png'), noise(4, 5)[:, :, 0])
    assert read_image(tmp_path / 'grey.png').shape == (4, 5, 3)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((4, 4, 3), np.float32), 'type float32: uint8'),
        (np.zeros((4, 4), np.uint8), r'shape \(4, 4\).*GRAY2BGR'),
        (np.zeros((4, 4, 4), np.uint8), r'\(height, width, 3\) in BGR'),
        (np.zeros((0, 4, 3), np.uint8), 'no pixels'),
        (None, 'NoneType is no image'),
        (torch.zeros(3, 4, 4), 'Tensor is no image'),
        ('missing.jpg', r'missing\.jpg: no such image file'),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Letterbox(8, 8)(image)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for name, data, message in (
        ('text.jpg', b'hello', 'damaged, or not an image'),
        ('empty.jpg', b'', 'empty, not an image'),
        ('cut.png', b'\x89PNG\r\n\x1a\n' + b'\0' * 40, 'damaged, or not an image'),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match='a folder'):
        read_image(tmp_path)
    with pytest.raises(ImageError, match='9x4 does not fit the canvas of 8x8'):
        Letterbox(8, 8).fill(noise(9, 4))


def test_settings_survive_the_card() -> None:
    for box in (
        Letterbox(64, 96, mean=MEAN, std=STD, to_rgb=True),
        Letterbox(64, 96, mode='crop', short_edge=110, interpolation='bicubic', resize_backend='pillow'),
    ):
        assert Letterbox.from_card(card(**box.to_dict()), 'x.onnx') == box
    raw = card((1, 64, 96, 3), 'uint8', mean=[0, 0, 0], std=[1, 1, 1])
    assert Letterbox.from_card(raw, 'x.onnx') == Letterbox(64, 96, 'uint8')


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (card(), 'x.onnx: .* no normalization.mean'),
        (card(mean=[0], std=[1], colour=1), "normalization has 'colour'"),
        (card(mean=[0], std=[0]), 'std=.*above 0'),
        (card(mean=[0, 0], std=[1]), 'mean=.*three numbers'),
        (card(mean=['a'], std=[1]), 'normalization in its card'),
        (card(mean=[0], std=[1], mode='fill'), "mode='fill' is not one of letterbox, crop, stretch"),
        (card((1, 3, 'h', 96), mean=[0], std=[1]), 'must be numbers'),
        (card((3, 64, 96), mean=[0], std=[1]), 'not one .image. of four dimensions'),
    ],
)
def test_a_card_that_does_not_say_how_is_refused(wrong: EngineCard, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Letterbox.from_card(wrong, 'x.onnx')
