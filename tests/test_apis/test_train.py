"""Training and evaluating in this process: what the config becomes, and resuming a real detector bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmengine import load as load_file
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmtrtvit.apis import test as test_api
from mmtrtvit.apis import train as train_api
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.launch import last_checkpoint

pytestmark = pytest.mark.usefixtures('one_thread')


@HOOKS.register_module()
class WatchHook(Hook):
    """Notes the losses of every iteration; ends the training as Ctrl-C does, before iteration ``stop``."""

    seen: ClassVar[dict[int, dict[str, float]]] = {}

    def __init__(self, stop: int = -1) -> None:
        self.stop = stop
        self.seen.clear()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.stop:
            raise KeyboardInterrupt

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.seen[runner.iter] = {name: value.item() for name, value in outputs.items()}


def child(config: str, text: str) -> str:
    """A new config that inherits ``config``."""
    file = Path(config).with_name(f'child{len(list(Path(config).parent.glob("*.py")))}.py')
    file.write_text(f'_base_ = {config!r}\n{text}\n')
    return str(file)


def test_a_detector_resumes_bit_for_bit(config: str, tmp_path: Path) -> None:
    options = ['--cfg-options', 'randomness.seed=1', 'train_cfg.val_interval=9', 'train_cfg.max_epochs=3']
    watched = child(config, 'custom_hooks = [dict(type="WatchHook")]')
    train_api.train([watched, '--work-dir', 'whole', *options])
    whole = WatchHook.seen.copy()
    assert list(whole) == list(range(9))
    assert {'loss', 'loss_cls', 'loss_bbox'} <= set(whole[0])
    stopped = child(config, 'custom_hooks = [dict(type="WatchHook", stop=5)]')
    with pytest.raises(KeyboardInterrupt):
        train_api.train([stopped, '--work-dir', 'cut', *options])
    assert WatchHook.seen == {i: whole[i] for i in range(5)}
    train_api.train([watched, '--work-dir', 'cut', '--resume', *options])
    assert WatchHook.seen == {i: whole[i] for i in range(3, 9)}
    a, b = (torch.load(tmp_path / name / 'epoch_3.pth')['state_dict'] for name in ('whole', 'cut'))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('stays', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_work_dir_that_was_moved_or_copied(config: str, tmp_path: Path, stays: bool) -> None:
    """mmengine's ``last_checkpoint`` names a file by its absolute path: the one beside it is meant."""
    options = ['--cfg-options', 'train_cfg.val_interval=9', 'train_cfg.max_epochs=1']
    train_api.train([config, '--work-dir', 'before', *options])
    (shutil.copytree if stays else shutil.move)(tmp_path / 'before', tmp_path / 'after')
    here = tmp_path / 'after' / 'epoch_1.pth'
    assert last_checkpoint(tmp_path / 'after') == here
    watched = child(config, 'custom_hooks = [dict(type="WatchHook")]')
    args = train_api.parse_args([watched, '--work-dir', 'after', '--resume', *options[:-1], 'train_cfg.max_epochs=2'])
    cfg = train_api.prepare(args)
    assert train_api._start(cfg) == (str(Path('after', 'epoch_1.pth')), 1.0)
    assert Path(cfg.load_from).resolve() == here
    train_api.train([watched, '--work-dir', 'after', '--resume', *options[:-1], 'train_cfg.max_epochs=2'])
    assert sorted(WatchHook.seen) == [3, 4, 5]
    assert (tmp_path / 'before').exists() is stays


def test_a_work_dir_without_a_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None


def coco_average_precision(annotations: Path, results: list[dict[str, Any]]) -> tuple[float, float]:
    """AP and AP at IoU 0.5 by pycocotools alone, of predictions as ``--out`` writes them."""
    truth = COCO(str(annotations))
    found = []
    for result in results:
        instances = result['pred_instances']
        for box, score, label in zip(instances['bboxes'], instances['scores'], instances['labels'], strict=True):
            x1, y1, x2, y2 = box.tolist()
            found.append(
                dict(image_id=result['img_id'], category_id=int(label) + 1, bbox=[x1, y1, x2 - x1, y2 - y1],
                     score=float(score))
            )  # fmt: skip
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def test_evaluation_agrees_with_pycocotools(config: str, tmp_path: Path) -> None:
    """Every third detection is made a true box, a few pixels off, for figures that an untrained detector has not."""
    train_api.train([config, '--cfg-options', 'train_cfg.max_epochs=1'])
    line = [config, 'work_dirs/detector/epoch_1.pth', '--out', 'r.pkl', '--cfg-options', 'model.test_cfg.score_thr=0.0']
    test_api.evaluate(line)
    annotations = tmp_path / 'data' / 'instances.json'
    document = json.loads(annotations.read_text())
    document['annotations'] = []
    for result in load_file('r.pkl'):
        instances = result['pred_instances']
        for box, label in list(zip(instances['bboxes'].tolist(), instances['labels'].tolist(), strict=True))[::3]:
            width, height = box[2] - box[0], box[3] - box[1]
            box = [box[0], box[1], width * (1 - 0.1 * (label + 1)), height]
            document['annotations'].append(
                dict(id=len(document['annotations']) + 1, image_id=result['img_id'], category_id=label + 1, iscrowd=0,
                     bbox=box, area=width * height)
            )  # fmt: skip
    annotations.write_text(json.dumps(document))
    metrics = test_api.evaluate(line)
    results = load_file('r.pkl')
    assert len(results) == 6
    expected = coco_average_precision(annotations, results)
    assert 0.05 < expected[0] < expected[1] < 1
    assert (metrics['coco/bbox_mAP'], metrics['coco/bbox_mAP_50']) == pytest.approx(expected, abs=5.1e-4)


def prepare(*argv: str) -> Any:
    return train_api.prepare(train_api.parse_args(argv))


def test_command_line_becomes_config(config: str) -> None:
    cfg = prepare(config)
    assert cfg.work_dir == str(Path('work_dirs/detector'))
    assert [hook['type'] for hook in cfg.custom_hooks] == ['ExactResumeHook']
    assert cfg.get('resume') is False
    cfg = prepare(config, '--work-dir', 'here', '--auto-scale-lr', '--resume')
    assert (cfg.work_dir, cfg.auto_scale_lr.enable, cfg.resume, cfg.load_from) == ('here', True, True, None)
    cfg = prepare(child(config, 'custom_hooks = [dict(type="ExactResumeHook")]'), '--resume', 'a.pth')
    assert (cfg.resume, cfg.load_from, len(cfg.custom_hooks)) == (True, 'a.pth', 1)
    assert prepare(config, '--cfg-options', 'work_dir=from_option').work_dir == 'from_option'


@pytest.mark.parametrize('cuda', [False, True])
def test_amp(config: str, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    if cuda:
        assert prepare(config, '--amp').optim_wrapper.type == 'AmpOptimWrapper'
    else:
        with pytest.raises(UserError, match=r'--amp: .* needs a GPU'):
            prepare(config, '--amp')


def test_auto_scale_without_a_base(config: str) -> None:
    with pytest.raises(UserError, match=r'no auto_scale_lr\.base_batch_size'):
        prepare(config, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr={}')


@pytest.mark.parametrize(
    ('scope', 'expected'),
    [
        ('mmdet', {'type': 'DetVisualizationHook', 'draw': True, 'test_out_dir': 'd'}),
        ('mmseg', {'type': 'SegVisualizationHook', 'draw': True, 'interval': 1}),
        ('mmpretrain', {'type': 'VisualizationHook', 'enable': True, 'interval': 1, 'out_dir': 'd'}),
    ],
)
@pytest.mark.parametrize('there', [True, False])
def test_show_dir_in_each_library(scope: str, expected: dict[str, Any], there: bool) -> None:
    hooks = {'visualization': {'type': expected['type'], 'interval': 50}} if there else {}
    cfg = Config({'default_scope': scope, 'default_hooks': hooks, 'visualizer': {}})
    test_api.enable_drawing(cfg, 'd')
    assert cfg.default_hooks.visualization.to_dict() == ({'interval': 50} if there else {}) | expected
    assert cfg.visualizer.get('save_dir') == ('d' if scope == 'mmseg' else None)


def test_show_dir_without_a_painter() -> None:
    with pytest.raises(UserError, match=r'config of other has no default_hooks\.visualization'):
        test_api.enable_drawing(Config({'default_scope': 'other'}), 'd')


def test_hooks_given_as_text(config: str) -> None:
    with pytest.raises(UserError, match='custom_hooks must be a list of dict'):
        prepare(config, '--cfg-options', 'custom_hooks=EMAHook')


def test_results_must_be_a_pickle(config: str) -> None:
    with pytest.raises(UserError, match=r'--out results\.json: the name must end in \.pkl'):
        test_api.evaluate([config, 'x.pth', '--out', 'results.json'])
