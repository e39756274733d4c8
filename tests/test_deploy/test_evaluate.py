"""Engines in mmengine's test loop against the libraries' own predictions on the same canvas."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from mmengine import dump as dump_file
from mmengine import load as load_file
from mmengine.config import Config
from pycocotools.mask import decode

from mmtrtvit.apis.config import load_config
from mmtrtvit.apis.model import build_model
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy import load
from mmtrtvit.deploy.backends import BackendError, TensorSpec, read_card, write_card
from mmtrtvit.deploy.evaluate import EngineModel, letterbox_model
from mmtrtvit.deploy.inference import Detections, Engine, Postprocess
from mmtrtvit.deploy.preprocess import Letterbox, Placement
from mmtrtvit.deploy.tools.deploy import deploy
from mmtrtvit.deploy.tools.test import evaluate
from mmtrtvit.deploy.tools.test import main as run_main
from tests.test_deploy import engines
from tests.test_deploy.engines import LOW_SCORES, Tiny
from tests.tiny import make_coco

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='session')
def detector(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return engines.detector(tmp_path_factory)


@pytest.fixture(scope='session')
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return engines.segmentor(tmp_path_factory)


@pytest.fixture(scope='session')
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return engines.classifier(tmp_path_factory)


def outcome(tiny: Tiny, model: Path, work_dir: Path, *words: str) -> tuple[dict[str, float], list[Any]]:
    """Metrics and dumped predictions."""
    out = work_dir / f'{model.name}.pkl'
    metrics = evaluate([str(tiny.config), str(model), '--work-dir', str(work_dir), '--out', str(out), *words])
    return metrics, load_file(out)


def shaken_detections(tiny: Tiny, path: Path) -> Path:
    """A ground truth on which a model that has learned nothing has an AP: some of its boxes, a little shifted."""
    document = load_file(tiny.images.parent / 'instances.json')
    found = load(tiny.engine)([tiny.images / image['file_name'] for image in document['images']])
    rng = np.random.default_rng(0)
    document['annotations'] = []
    for image, detections in zip(document['images'], found, strict=True):
        for one in list(detections)[::2]:
            x1, y1, x2, y2 = (value + rng.uniform(-2, 2) for value in one.box)
            width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
            document['annotations'].append(
                dict(id=len(document['annotations']) + 1, image_id=image['id'], category_id=one.label + 1, iscrowd=0,
                     bbox=[x1, y1, width, height], area=width * height)
            )  # fmt: skip
    dump_file(document, path)
    return path


def test_detector_has_the_ap_and_the_detections_of_mmdet_on_the_canvas(
    detector: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Six images in batches of four: the last batch is filled up, what fills it is dropped."""
    truth = shaken_detections(detector, tmp_path / 'truth.json')
    options = ('--cfg-options', LOW_SCORES, f'test_evaluator.ann_file={truth}')
    reference, theirs = outcome(detector, detector.checkpoint, tmp_path, '--letterbox', '64x96', *options)
    found, ours = outcome(detector, detector.engine, tmp_path, *options)
    assert 0.1 < reference['coco/bbox_mAP'] < 0.9, 'some boxes are right and some are not'
    assert found == pytest.approx(reference, abs=1e-3)
    assert [one['img_id'] for one in ours] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(ours, theirs, strict=True):
        a, b = one['pred_instances'], two['pred_instances']
        assert len(a['scores']) == len(b['scores']) == 10
        assert torch.allclose(a['scores'], b['scores'], atol=1e-5)
        assert torch.equal(a['labels'], b['labels'])
        assert torch.allclose(a['bboxes'], b['bboxes'], atol=0.01)
        height, width = one['ori_shape']
        assert a['bboxes'].min() >= 0
        assert (a['bboxes'].max(0).values[2:] <= torch.tensor([width, height])).all()
    assert 'suppression of duplicates proved complete on all 6 images' in capfd.readouterr().out


@pytest.mark.slow
def test_fp16_is_evaluated_with_every_result_rounded(
    detector: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rounded weights alone, which ONNX Runtime's CPU provider shows, err less than weights and results."""
    image = sorted(detector.images.iterdir())[0]
    deploy(
        ['detection_onnxruntime-fp16_static-320x320', str(detector.config), str(detector.checkpoint), str(image),
         '--work-dir', str(tmp_path / 'fp16'), '--log-level', 'ERROR', '--cfg-options', 'onnx_config.height=64',
         'onnx_config.width=96', 'onnx_config.batch_size=4', LOW_SCORES]
    )  # fmt: skip
    engine = tmp_path / 'fp16' / 'end2end.onnx'
    options = ('--cfg-options', LOW_SCORES)
    _, exact = outcome(detector, detector.engine, tmp_path, *options)
    _, weights = outcome(detector, engine, tmp_path, *options)
    capfd.readouterr()
    _, rounded = outcome(detector, engine, tmp_path, '--emulate-fp16', *options)
    assert f'{engine}: suppression of duplicates' in capfd.readouterr().out

    def error(found: list[Any]) -> float:
        pairs = zip(found, exact, strict=True)
        return float(
            np.mean([(a['pred_instances']['scores'] - b['pred_instances']['scores']).abs().mean() for a, b in pairs])
        )

    assert 0 < error(weights) < error(rounded) < 0.01


def test_segmentor_has_the_iou_of_mmseg_on_the_canvas(segmentor: Tiny, tmp_path: Path) -> None:
    reference, theirs = outcome(segmentor, segmentor.checkpoint, tmp_path, '--letterbox', '64x96')
    found, ours = outcome(segmentor, segmentor.engine, tmp_path)
    assert found == pytest.approx(reference, abs=1e-3)
    for one, two in zip(ours, theirs, strict=True):
        assert one['pred_sem_seg']['data'].shape == (1, 32, 32)
        assert (one['pred_sem_seg']['data'] == two['pred_sem_seg']['data']).float().mean() > 0.999
        assert torch.allclose(one['seg_logits']['data'], two['seg_logits']['data'], atol=1e-4)


def test_classifier_has_the_scores_of_mmpretrain(classifier: Tiny, tmp_path: Path) -> None:
    """Its own pipeline gives the canvas; any batch goes."""
    reference, theirs = outcome(classifier, classifier.checkpoint, tmp_path)
    found, ours = outcome(classifier, classifier.engine, tmp_path, '--cfg-options', 'test_dataloader.batch_size=4')
    assert found == reference
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one['pred_score'], two['pred_score'], atol=1e-5)
        assert int(one['pred_label']) == int(two['pred_label'])
        assert int(one['gt_label']) == int(two['gt_label'])


def test_command_line(detector: Tiny, tmp_path: Path) -> None:
    """As a user starts it: pictures and predictions too."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / 'test.py'), str(detector.config), str(detector.engine), '--threads', '1',
         '--work-dir', 'out', '--out', 'results.pkl', '--show-dir', 'shown', '--cfg-options', LOW_SCORES],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r'coco/bbox_mAP: 0\.\d+', done.stdout + done.stderr)
    assert len(load_file(tmp_path / 'results.pkl')) == 6
    assert len(list((tmp_path / 'out').glob('*/shown/*.png'))) == 6


def test_a_missing_certificate_is_counted(
    detector: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run, calls = Engine.run, iter(range(100))

    def doubtful(self: Engine, canvases: Any) -> Any:
        found = run(self, canvases)
        for outputs in found:
            outputs['exact'] = torch.tensor(next(calls) not in (1, 4))
        return found

    monkeypatch.setattr(Engine, 'run', doubtful)
    evaluate([str(detector.config), str(detector.engine), '--work-dir', str(tmp_path)])
    assert '2 of 6 images: the engine could not prove' in capfd.readouterr().out


def edited(tiny: Tiny, folder: Path, **changes: Any) -> str:
    """A copy of the engine with another card."""
    engine = folder / 'end2end.onnx'
    shutil.copy(tiny.engine, engine)
    write_card(replace(read_card(tiny.engine), **changes), engine)
    return str(engine)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which the tool ends."""
    with pytest.raises(SystemExit) as status:
        run_main([str(word) for word in words])
    assert status.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('error: ')
    return lines[-1]


def test_engines_that_do_not_fit_the_config_are_refused(
    detector: Tiny, segmentor: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ('--work-dir', tmp_path / 'work')
    engine = edited(detector, tmp_path, classes=('a', 'b', 'c'), config='other.py')
    line = refused(capsys, detector.config, engine, *work)
    assert 'knows 3 classes (a, b, c), the data set 2 (a, b)' in line
    assert 'other.py' in line
    line = refused(capsys, segmentor.config, detector.engine, *work)
    assert 'gives detections' in line
    assert 'is of mmseg' in line
    line = refused(capsys, detector.config, detector.engine, *work, '--cfg-options', 'test_evaluator.metric=segm')
    assert 'has no masks' in line
    assert 'test_evaluator.metric=bbox' in line


def test_segmentor_of_another_number_of_classes_is_refused(
    segmentor: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = TensorSpec('logits', 'float32', (3, 5, 64, 96))
    engine = edited(segmentor, tmp_path, classes=(), outputs=(logits,))
    line = refused(capsys, segmentor.config, engine, '--work-dir', tmp_path)
    assert 'knows 5 classes, the data set 3 (a, b, c)' in line


def test_other_names_of_classes_are_a_warning(
    detector: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(detector.config), edited(detector, tmp_path, classes=('a', 'z')), '--work-dir', str(tmp_path)])
    assert "calls a class 'z' that the data set calls 'b'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ('model', 'words', 'message'),
    [
        ('engine', ['--letterbox', '64x96'], '--letterbox: an engine has its own canvas'),
        ('engine', ['--backend', 'tensorrt-rtx'], 'was built for onnxruntime, not for tensorrt-rtx'),
        ('engine', ['--backend', 'onnx'], "backend='onnx' is unknown. There are: onnxruntime"),
        ('engine', ['--device', 'gpu'], "device='gpu' is no device"),
        ('engine', ['--threads', '0'], '--threads 0: at least 1'),
        ('checkpoint', ['--device', 'gpu'], '--device gpu: '),
        ('checkpoint', ['--backend', 'onnxruntime'], 'has no card'),
        ('engine', ['--emulate-fp16'], r'--emulate-fp16: .*end2end\.onnx is in fp32'),
        ('checkpoint', ['--emulate-fp16'], '--emulate-fp16: is for the ONNX file'),
        ('nowhere.onnx', [], r'engine not found: nowhere\.onnx'),
        ('nowhere.pth', [], r'checkpoint not found: nowhere\.pth'),
    ],
)
def test_wrong_words_are_refused(
    detector: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, words: list[str], message: str
) -> None:
    file = getattr(detector, model, model)
    assert re.search(message, refused(capsys, detector.config, file, '--work-dir', tmp_path, *words))


@pytest.mark.parametrize('word', ['64', '0x32', 'ax3', '64x'])
def test_a_canvas_is_height_by_width(detector: Tiny, capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit):
        run_main([str(detector.config), str(detector.checkpoint), '--letterbox', word])
    assert 'is not HxW' in capsys.readouterr().err


def test_damaged_engines_are_refused(detector: Tiny, tmp_path: Path) -> None:
    engine = tmp_path / 'end2end.onnx'
    with pytest.raises(BackendError, match='no such file'):
        load(engine)
    shutil.copy(detector.engine, engine)
    with pytest.raises(BackendError, match='has no card'):
        load(engine)
    shutil.copy(f'{detector.engine}.json', f'{engine}.json')
    engine.write_bytes(engine.read_bytes()[:-100])
    with pytest.raises(BackendError, match='damaged'):
        load(engine)


def test_five_lines_give_the_detections_of_mmdet(detector: Tiny) -> None:
    """From files or arrays, one or many; the reference is mmdet on the canvas, read from its own model."""
    from mmdet.structures import DetDataSample

    files = sorted(detector.images.glob('*.png'))
    model = load(detector.engine)
    results = model([*files, mmcv.imread(files[0])])
    reference: Any = build_model(Config.fromfile(detector.config), str(detector.checkpoint))[0]
    reference.bbox_head.test_cfg.score_thr = 0.0
    for file, found in zip(files, results[:-1], strict=True):
        canvas = model.letterbox(file)
        meta = dict(img_shape=(64, 96), ori_shape=canvas.placement.ori_shape,
                    scale_factor=canvas.placement.scale_factor)  # fmt: skip
        with torch.no_grad():
            theirs = reference.predict(canvas.tensor[None], [DetDataSample(metainfo=meta)])[0].pred_instances
        assert len(found) == len(theirs) == 10
        assert torch.allclose(found.scores, theirs.scores, atol=1e-5)
        assert torch.equal(found.labels, theirs.labels)
        assert torch.allclose(found.placement.undo_boxes(found.outputs['boxes'], clip=False), theirs.bboxes, atol=0.01)
    assert torch.equal(results[-1].boxes, results[0].boxes)
    single = model(str(files[0]))
    assert torch.allclose(single.boxes, results[0].boxes, atol=1e-3)
    first = next(iter(single))
    assert first.box == pytest.approx(single.boxes[0].tolist())
    assert (first.score, first.name, first.mask) == (float(single.scores[0]), 'ab'[first.label], None)
    assert single.masks is None
    assert single.exact
    assert model([]) == []


def test_segments_and_classes_from_files(segmentor: Tiny, classifier: Tiny, tmp_path: Path) -> None:
    file = sorted(segmentor.images.glob('*.png'))[0]
    with load(segmentor.engine) as model:
        found = model(file)
    assert found.label_map.shape == (32, 32)
    assert set(found.names) <= set('abc')
    assert found.label_map.eq('abc'.index(found.names[0])).sum() == found.label_map.flatten().bincount().max()
    assert found.draw(tmp_path / 'segments.png').stat().st_size > 1000
    with pytest.raises(BackendError, match='closed'):
        model(file)
    classes = load(classifier.engine)(sorted(classifier.images.rglob('*.png')))
    assert len(classes) == 6
    assert classes[0].scores.sum() == pytest.approx(1, abs=1e-5)
    assert classes[0].top(2)[0] == (classes[0].name, pytest.approx(float(classes[0].scores.max())))


def test_inference_needs_no_library_of_openmmlab_but_mmcv(detector: Tiny) -> None:
    image = sorted(detector.images.glob('*.png'))[1]
    code = (
        'import sys; sys.modules.update(dict.fromkeys(("mmdet", "mmseg", "mmpretrain")))\n'
        'from mmtrtvit.deploy import load\n'
        f'print(len(load({str(detector.engine)!r})({str(image)!r})))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, '10'), done.stderr[-2000:]


def test_masks_are_pasted_when_asked_for_and_equal_mmdets() -> None:
    """Rows past ``num_dets`` are no detections; the box is clipped, its mask is not squeezed."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    placement = Placement((2.0, 2.0), (60, 80), (30, 40))
    boxes = torch.tensor([[4.0, 4, 40, 50], [60, -8, 96, 64], [0, 0, 0, 0]])
    masks = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    outputs = {'boxes': boxes, 'scores': torch.tensor([0.9, 0.5, 0]), 'labels': torch.tensor([1, 7, -1]),
               'num_dets': torch.tensor(2), 'masks': masks}  # fmt: skip
    found = Detections(outputs, placement, ('cat', 'dog'), Postprocess(mask_threshold=0.4))
    theirs = _do_paste_mask(masks[:2, None], boxes[:2] / 2, 30, 40, skip_empty=False)[0] >= 0.4
    assert torch.equal(found.masks, theirs)
    assert [one.name for one in found] == ['dog', '7'], 'a number where the card has no name'
    for one, mask in zip(found, theirs, strict=True):
        assert torch.equal(one.mask, mask)
    assert found.boxes.tolist() == [[2, 2, 20, 25], [30, 0, 40, 30]]


@pytest.mark.slow
def test_mask_rcnn_has_the_masks_of_mmdet_on_the_canvas(tmp_path: Path) -> None:
    """Two stages and masks, TRT-ViT, random weights: the same masks in the size of the image."""
    root = make_coco(tmp_path / 'data')
    config = tmp_path / 'masks.py'
    config.write_text(MASK_RCNN.format(base=str(CONFIG_ROOT / 'trtvit' / 'mask_rcnn_trtvit-a.py'), root=f'{root}/'))
    image = sorted((root / 'images').glob('*.png'))[1]
    torch.manual_seed(0)
    model, _ = build_model(Config.fromfile(config), 'none')
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'random.pth')
    deploy(['instance-seg_onnxruntime_static-320x320.py', str(config), str(tmp_path / 'random.pth'), str(image),
            '--work-dir', str(tmp_path / 'deployed'), '--log-level', 'ERROR', '--cfg-options',
            'onnx_config.height=96', 'onnx_config.width=128', 'onnx_config.batch_size=2'])  # fmt: skip
    results = []
    for words in ([tmp_path / 'random.pth', '--letterbox', '96x128'], [tmp_path / 'deployed' / 'end2end.onnx']):
        out = tmp_path / f'{len(results)}.pkl'
        evaluate([str(config), *map(str, words), '--work-dir', str(tmp_path / 'work'), '--out', str(out)])
        results.append(load_file(out))
    # Random weights score many proposals alike: where a limit cuts through a tie, either side may keep the other box.
    pairs, total = [], 0
    for one, two in zip(*results, strict=True):
        a, b = one['pred_instances'], two['pred_instances']
        total += len(a['scores'])
        near = (a['bboxes'][:, None] - b['bboxes'][None]).abs().amax(-1) < 0.01
        near &= (a['scores'][:, None] - b['scores'][None]).abs() < 1e-4
        near &= a['labels'][:, None] == b['labels'][None]
        pairs += [(a['masks'][row], b['masks'][column]) for row, column in near.nonzero().tolist()]
    assert total >= 60
    assert len(pairs) >= 0.95 * total
    assert sum(decode(first).any() for first, _ in pairs) > 20, 'masks, and not all of them empty'
    for first, second in pairs:
        assert np.mean(decode(first) != decode(second)) < 2e-3


@pytest.mark.parametrize('pad', [None, (10.0, 200.0, 90.0)])
def test_pytorch_gets_the_canvas_of_the_engine(detector: Tiny, pad: tuple[float, ...] | None) -> None:
    """Two images of other sizes than the canvas, padded with what the pipeline pads with."""
    from mmdet.structures import DetDataSample

    model: Any = build_model(load_config(str(detector.config)), 'none')[0]
    canvas = Letterbox(64, 96, pad=pad)
    letterbox_model(model, canvas)
    pictures = [np.random.default_rng(seed).integers(0, 256, size, np.uint8) for seed, size in enumerate(
        [(30, 70, 3), (64, 96, 3)])]  # fmt: skip
    wanted = [replace(Letterbox.from_model(model, canvas), pad=pad).fill(picture) for picture in pictures]
    samples = [DetDataSample(metainfo={'img_shape': picture.shape[:2]}) for picture in pictures]
    inputs = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    found = model.data_preprocessor({'inputs': inputs, 'data_samples': samples})
    assert torch.equal(found['inputs'], torch.stack(wanted))
    assert [sample.img_shape for sample in found['data_samples']] == [(64, 96)] * 2


MASK_RCNN = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False),
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.0, max_per_img=12)),
)
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(data_root={root!r}, ann_file='instances.json', data_prefix=dict(img='images/'),
               metainfo=dict(classes=('a', 'b')), pipeline=pipeline)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + 'instances.json')
test_evaluator = val_evaluator
"""


def test_an_engine_only_predicts(detector: Tiny) -> None:
    model = EngineModel(str(detector.engine), threads=1)
    with pytest.raises(NotImplementedError, match="mode='loss'"):
        model(torch.zeros(1, 3, 8, 8), mode='loss')
