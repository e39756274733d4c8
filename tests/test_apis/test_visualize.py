"""Pictures of detections and segmentations beside the ground truth."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmtrtvit.apis import contact_sheet, visualize
from mmtrtvit.apis.contact_sheet import Group, Panel, compose, fit
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.visualize import PictureError, choose, draw_detections, draw_results, draw_segmentation
from mmtrtvit.datasets import METAINFO, Parameters, generate
from tests.tiny import make_detector

CELL = 120


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('shapes') / 'set'
    generate(out, Parameters(seed=0, train=1, val=12, size=96))
    return out


def build(scope: str, config: dict[str, Any]) -> Any:
    import mmdet.datasets  # noqa: F401  registers
    import mmseg.datasets  # noqa: F401  registers
    from mmengine.registry import DATASETS

    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build({**config, '_scope_': scope})


@pytest.fixture(scope='module')
def coco(root) -> Any:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    return build(
        'mmdet',
        dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            metainfo=METAINFO,
            test_mode=True,
            pipeline=pipeline,
        ),
    )


@pytest.fixture(scope='module')
def ade(root) -> Any:
    return build(
        'mmseg',
        dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
            reduce_zero_label=True,
            metainfo=METAINFO,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
        ),
    )


class KnowsTheTruth(nn.Module):
    """Detects every object where it is, the k-th with score 0.9 - k / 10."""

    def __init__(self, dataset: Any, masks: bool = True) -> None:
        super().__init__()
        self.dataset, self.masks, self.calls = dataset, masks, 0

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        sample = data['data_samples'][0]
        index = sample.img_id - 500_001
        _, truth, _ = visualize._true_instances(self.dataset, index, self.masks)
        scores = 0.9 - torch.arange(len(truth)) / 10
        sample.pred_instances = InstanceData(bboxes=truth.bboxes, labels=truth.labels, scores=scores)
        if self.masks:
            sample.pred_instances.masks = truth.masks
        return [sample]


class SegmentsRightly(nn.Module):
    """Predicts the true labels, but class 0 wherever there is none and in the first ``wrong`` rows."""

    def __init__(self, dataset: Any, wrong: int = 0) -> None:
        super().__init__()
        self.dataset, self.wrong = dataset, wrong

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        sample = data['data_samples'][0]
        index = int(Path(sample.img_path).stem) - 500_001
        labels = visualize._true_map(self.dataset, index)[1].astype(np.int64)
        labels[labels == 255] = 0
        labels[: self.wrong] = 0
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels[None]))
        return [sample]


@pytest.fixture
def groups(monkeypatch) -> list[Group]:
    """What is laid out, caught on its way to the sheet."""
    caught: list[Group] = []

    def compose_and_catch(headings: Any, laid_out: Any, *rest: Any) -> Any:
        caught.extend(laid_out)
        return compose(headings, laid_out, *rest)

    monkeypatch.setattr(visualize, 'compose', compose_and_catch)
    return caught


def test_truth_beside_detections(coco, tmp_path, groups):
    path = draw_detections(KnowsTheTruth(coco), coco, tmp_path / 'new' / 'a.png', indices=range(12), cell=CELL)
    sheet = cv2.imread(str(path))
    assert sheet.shape[1] == 36 + 2 * (2 * CELL + 8 + 36)
    assert [p.name for p in path.parent.iterdir()] == ['a.png']
    assert len(groups) == 12
    for index, group in enumerate(groups):
        info = coco.get_data_info(index)
        number = len(info['instances'])
        truth, found = group.panels
        assert max(truth.image.shape[:2]) == CELL
        assert truth.image.shape == found.image.shape == (*fit(info['height'], info['width'], CELL), 3)
        kept = min(number, 4)  # scores 0.9, 0.8, 0.7, 0.6
        objects = 'no object' if number == 0 else f'{number} object' + 's' * (number > 1)
        assert truth.caption == f'{info["img_id"]:012d}.jpg: {objects}'
        assert found.caption == ('no detection' if kept == 0 else f'{kept} detection' + 's' * (kept > 1))
        plain = cv2.imread(info['img_path'])[:, :, ::-1]
        plain = contact_sheet.resize(np.ascontiguousarray(plain), *truth.image.shape[:2])
        assert np.array_equal(truth.image, plain) == (number == 0)
        assert np.array_equal(found.image, plain) == (kept == 0)
    assert groups[9].panels[0].caption.endswith('no object')


def test_score_threshold(coco, tmp_path, groups):
    draw_detections(KnowsTheTruth(coco), coco, tmp_path / 'a.png', indices=[0], cell=CELL, score_thr=0.9)
    assert groups[0].panels[1].caption == 'no detection'
    assert groups[0].panels[0].caption != 'no object'


def test_crowds_are_named(coco):
    _, truth, _ = visualize._true_instances(coco, 4, masks=True)
    assert [name for name in truth.label_names if name.endswith(' (crowd)')] == [truth.label_names[-1]]
    assert truth.masks.shape[0] == len(truth)
    rows, columns = torch.nonzero(truth.masks[-1], as_tuple=True)
    assert truth.bboxes[-1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_alone(coco, tmp_path, groups):
    """No masks on the left where the model predicts none."""
    draw_detections(KnowsTheTruth(coco, masks=False), coco, tmp_path / 'a.png', indices=[2], cell=CELL)
    draw_detections(KnowsTheTruth(coco), coco, tmp_path / 'b.png', indices=[2], cell=CELL)
    changed = (groups[0].panels[0].image != groups[1].panels[0].image).any(axis=-1).mean()
    assert changed > 0.03


def test_boxes_beyond_the_edge_keep_the_scale(coco):
    """matplotlib would zoom out to show them whole."""
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[30:, :] = 255
    wild = InstanceData(bboxes=torch.tensor([[-30.0, -20.0, 120.0, 10.0]]), labels=torch.tensor([0]))
    visualizer = visualize.det_visualizer()
    visualizer.dataset_meta = METAINFO
    drawn = visualize.paint_instances(visualizer, image, wild, 160)
    assert drawn.shape == (120, 160, 3)
    assert (drawn[64:, 2:-2] == 255).all()
    assert (drawn[40:56, 2:-2] == 0).all()


def test_same_results_same_picture_and_nothing_disturbed(coco, tmp_path):
    model = KnowsTheTruth(coco).train()
    np.random.seed(5)
    expected = np.random.RandomState(5).rand(3)
    for name in ('a.png', 'b.png'):
        draw_detections(model, coco, tmp_path / name, count=2, cell=CELL)
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
    assert np.array_equal(np.random.rand(3), expected)
    assert model.training
    assert model.calls == 4


def test_ground_truth_alone(coco, ade, tmp_path):
    for draw, dataset in ((draw_detections, coco), (draw_segmentation, ade)):
        path = draw(None, dataset, tmp_path / 'a.png', count=4, cell=CELL, across=3)
        assert cv2.imread(str(path)).shape[1] == 36 + 3 * (CELL + 36)


def test_a_palette_given_as_a_tuple(coco, tmp_path):
    """mmdet's visualizer takes a tuple for one colour and fails."""
    other = copy.copy(coco)
    other._metainfo = {**coco.metainfo, 'palette': tuple(METAINFO['palette'])}
    for name, dataset in (('a.png', coco), ('b.png', other)):
        draw_detections(None, dataset, tmp_path / name, count=2, cell=CELL)
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_segmentation(ade, tmp_path, groups):
    draw_segmentation(SegmentsRightly(ade), ade, tmp_path / 'a.png', indices=[0, 9], cell=CELL)
    labels = visualize._true_map(ade, 0)[1]
    present = sorted({0, *np.unique(labels).tolist()} - {255})  # the prediction says 0 where nothing is labelled
    assert [name for name, _ in groups[0].legend] == [METAINFO['classes'][label] for label in present]
    assert [tuple(colour) for _, colour in groups[0].legend] == [METAINFO['palette'][label] for label in present]
    assert groups[0].panels[1].caption == '100.0 % of the labelled pixels are right'
    assert groups[1].panels[1].caption == 'no labelled pixel'
    image = visualize._true_map(ade, 0)[0]
    height, width = fit(image.shape[0], image.shape[1], CELL)
    shown = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    plain = contact_sheet.resize(image, height, width)
    for label in (present[-1], 255):
        colour = np.array(METAINFO['palette'][label] if label != 255 else (0, 0, 0))
        expected = (0.4 * plain + 0.6 * colour)[shown == label]
        assert np.abs(groups[0].panels[0].image[shown == label] - expected).max() <= 2

    right = (labels[40:] != 255).sum() + (labels[:40] == 0).sum()
    draw_segmentation(SegmentsRightly(ade, wrong=40), ade, tmp_path / 'b.png', indices=[0], cell=CELL)
    percent = 100 * right / (labels != 255).sum()
    assert groups[2].panels[1].caption == f'{percent:.1f} % of the labelled pixels are right'


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(count=0), 'count=0 is less than 1'),
        (dict(cell=10), 'cell=10 is less than 64'),
        (dict(across=0), 'across=0 is less than 1'),
        (dict(score_thr=float('nan')), r'score_thr=nan is not within 0 \.\. 1'),
        (dict(score_thr=7), r'score_thr=7 is not within 0 \.\. 1'),
        (dict(indices=[]), 'no image to draw'),
        (dict(indices=[3, 12]), 'index 12: the data set has the images 0 to 11'),
    ],
)
def test_bad_arguments(coco, tmp_path, options, text):
    model = KnowsTheTruth(coco)
    with pytest.raises(PictureError, match=text):
        draw_detections(model, coco, tmp_path / 'a.png', **options)
    with pytest.raises(PictureError, match=r'a\.jpg: .*ends in \.png'):
        draw_detections(model, coco, tmp_path / 'a.jpg')
    assert model.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_a_failing_model_leaves_the_old_picture(coco, tmp_path):
    class Fails(nn.Module):
        def test_step(self, data: Any) -> Any:
            raise RuntimeError('out of memory')

    path = draw_detections(None, coco, tmp_path / 'a.png', count=1, cell=CELL)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match='out of memory'):
        draw_detections(Fails(), coco, path, count=1, cell=CELL)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_choose():
    assert choose(100, 4) == [12, 37, 62, 87]
    assert choose(3, 8) == [0, 1, 2]
    assert choose(0, 8) == []
    assert all(len(set(choose(total, count))) == min(total, count) for total in range(1, 40) for count in range(1, 40))


def test_sheet_wraps_legends_and_cuts_long_captions():
    panel = Panel(np.full((50, 100, 3), 200, dtype=np.uint8), 'a caption much longer than the panel is wide ' * 3)
    legend = [(f'class with a long name {k}', (k, 0, 0)) for k in range(10)]
    short = compose(['left', 'right'], [Group([panel, panel])] * 3, 100, 2)
    long = compose(['left', 'right'], [Group([panel, panel], legend)] * 3, 100, 2)
    assert short.shape[1] == long.shape[1] == 36 + 2 * (208 + 36)
    assert long.shape[0] == short.shape[0] + 2 * 10 * 24  # one name a line, two rows of groups
    assert (long[:, -30:] == 255).all()
    ink = (long != 255).any(axis=(0, 2))
    assert ink[:36].sum() == 0


def test_command_line(tmp_path, capsys, monkeypatch):
    """A real detector of mmdet, from config and checkpoint to the picture."""
    monkeypatch.chdir(tmp_path)
    config = make_detector(tmp_path / 'set', images=3)
    width = 36 + 2 * (2 * CELL + 8 + 36)
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    torch.save({'state_dict': runner.model.state_dict()}, 'weights.pth')
    drawn = draw_results(runner, tmp_path / 'a.png', cell=CELL, score_thr=0.0)
    assert cv2.imread(str(drawn)).shape[1] == width

    options = ['--cell', str(CELL), '--score-thr', '0']
    path = visualize.visualize([str(config), 'weights.pth', *options])
    assert path == Path('work_dirs/detector/visualize.png')
    assert capsys.readouterr().out.endswith('\nwork_dirs/detector/visualize.png\n')
    assert path.read_bytes() == drawn.read_bytes()
    averaged = tmp_path / 'averaged.py'
    averaged.write_text(f"_base_ = [{str(config)!r}]\ncustom_hooks = [dict(type='EMAHook')]\n")
    path = visualize.visualize([str(averaged), 'weights.pth', '--out', 'averaged.png', *options])
    assert path.read_bytes() == drawn.read_bytes()
    path = visualize.visualize([str(config), '--out', 'truth.png', *options])
    assert cv2.imread(str(path)).shape[1] == 36 + 2 * (CELL + 36)
    with pytest.raises(UserError, match=r'checkpoint not found: no\.pth; .* has weights\.pth'):
        visualize.visualize([str(config), 'no.pth'])
    torch.save({'state_dict': {'fc.bias': torch.zeros(2)}}, 'other.pth')
    with pytest.raises(UserError, match=r'other\.pth: 0 of the .* belongs to another model'):
        visualize.visualize([str(config), 'other.pth', '--out', 'other.png'])
    assert not Path('other.png').exists()
    missing = ['test_dataloader.dataset.ann_file=gone.json', 'test_dataloader.dataset.data_root=']
    with pytest.raises(UserError, match=r'missing data: gone\.json \(needed by test_dataloader'):
        visualize.visualize([str(config), 'weights.pth', '--cfg-options', *missing])
    with pytest.raises(UserError, match='index 7: the data set has the images 0 to 2'):
        visualize.visualize([str(config), '--indices', '7'])


def test_results_of_a_segmentor(ade, tmp_path):
    """A real segmentor of mmseg, whose prediction comes in the image's own size."""
    from mmseg.models import EncoderDecoder
    from mmseg.registry import MODELS

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32, test_cfg=dict(size_divisor=32)),
                backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')),
                decode_head=dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, num_classes=8),
                test_cfg=ConfigDict(mode='whole'),
            )
        )
    assert isinstance(model, EncoderDecoder)

    class FakeRunner:
        class test_loop:  # noqa: N801  as mmengine's Runner names it
            class dataloader:  # noqa: N801
                dataset = ade

    FakeRunner.model = model
    path = draw_results(FakeRunner, tmp_path / 'a.png', count=2, cell=CELL)
    assert cv2.imread(str(path)).shape[1] == 36 + 2 * (2 * CELL + 8 + 36)
    FakeRunner.model = nn.Linear(1, 1)
    with pytest.raises(PictureError, match='cannot draw what a Linear finds'):
        draw_results(FakeRunner, tmp_path / 'b.png')
