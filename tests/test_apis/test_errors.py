"""Every mistake a user makes ends in one line that names it, with status 2 and without a traceback."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrtvit.apis import demo, errors, flops, visualize
from mmtrtvit.apis import train as train_api
from mmtrtvit.apis.errors import UserError, explain, near, run_tool
from mmtrtvit.compat.mmcv_ext.missing import MissingOpError
from mmtrtvit.deploy.tools import test as test_tool
from tests.test_apis.common import Tool, edit
from tests.tiny import make_classifier

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (['train_cfg.max_epoch=3'], 'has no max_epoch in train_cfg .*did you mean max_epochs'),
        (['model.backbone.dept=50'], r"has no dept in model\.backbone \(type='ResNet'\); did you mean depth"),
        (['train_dataloader.batchsize=2'], 'did you mean batch_size'),
        (['train_dataloader.dataset.ann_fil=x'], 'did you mean ann_file'),
        (['default_hooks.checkpoint.max_keep_ckpt=1'], 'did you mean max_keep_ckpts'),
        (['optim_wrapper.optimizer.weight_deca=0.1'], 'did you mean weight_decay'),
        (['trian_cfg.max_epochs=1'], 'has no trian_cfg in the top level; did you mean train_cfg'),
        (['lr=0.1'], r'nothing reads lr in detector\.py: it is optim_wrapper\.optimizer\.lr$'),
        (['optimizer.lr=0.1'], r'--cfg-options optimizer\.lr: .* it is optim_wrapper\.optimizer$'),
        (['data.samples_per_gpu=2'], r'nothing reads data .* it is train_dataloader\.batch_size$'),
        (['model.test_cfg.score_threshold=0.3'], r'no score_threshold in model\.test_cfg; did you mean score_thr'),
        (
            ['train_pipeline.1.prob=0.3'],
            r'train_pipeline is a variable .*: set train_dataloader\.dataset\.pipeline$',
        ),
        (
            ['dataset.data_root=x'],
            r'a variable .*train_dataloader\.dataset and val_dataloader\.dataset and test_dataloader\.dataset',
        ),
        (['model.backbone=3', 'model.backbone.depth=3'], '--cfg-options for detector.py'),
        (['model.type=RetinaNett'], "type='RetinaNett': no such model in mmdet; did you mean RetinaNet"),
        (['model.backbone.depth=19'], 'ResNet cannot be built as the config says: invalid depth 19'),
        (['train_dataloader.dataset.type=CocoDatset'], "type='CocoDatset': no such dataset .*CocoDataset"),
        (['train_dataloader.dataset.pipeline.1.type=Load'], "type='Load': no such transform"),
        (
            ['optim_wrapper.paramwise_cg.norm_decay_mult=0'],
            'has no paramwise_cg in optim_wrapper .*did you mean paramwise_cfg',
        ),
        (['custom_hooks=EMAHook'], 'custom_hooks must be a list'),
        (['device=cuda'], 'device=cuda: PyTorch finds no GPU here'),
        (['env_cfg.dist_cfg.backend=nccl'], 'backend=nccl: PyTorch finds no GPU here'),
        (
            ['train_dataloader.dataset.indices=0'],
            'CocoDataset cannot be built as the config says: the data set is empty',
        ),
    ],
)
def test_options(config: str, fail: Tool, options: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    message = fail(train_api.main, config, '--cfg-options', *options)
    assert re.search(expected, message), message


@pytest.mark.parametrize(
    'options',
    [
        ['randomness.seed=1'],
        ['train_dataloader.dataset.indices=4', 'train_dataloader.prefetch_factor=2'],
        ['model.backbone.norm_eval=True', 'model.backbone.init_cfg.type=Kaiming', 'model.backbone.with_cp=False'],
        ['default_hooks.checkpoint.max_keep_ckpts=2', 'default_hooks.checkpoint.save_best=auto'],
        ['find_unused_parameters=True', 'my_own_value=3', 'load_from=x.pth', 'param_scheduler.0.end=3'],
        ['optim_wrapper.clip_grad.max_norm=1', 'optim_wrapper.accumulative_counts=2'],
        ['optim_wrapper.optimizer.betas=0.9,0.99'],
        ['train_dataloader.dataset.filter_cfg.filter_empty_gt=True', 'train_dataloader.dataset.metainfo.palette=[1]'],
        ['optim_wrapper.paramwise_cfg.norm_decay_mult=0.0', 'param_scheduler.0.convert_to_iter_based=True'],
        ['default_hooks.checkpoint.priority=LOW', 'model.backbone.norm_cfg.requires_grad=False'],
        ['model.neck.type=PAFPN', 'train_cfg.type=IterBasedTrainLoop', 'train_cfg.max_iters=3'],
    ],
)  # fmt: skip
def test_options_that_are_right(config: str, options: list[str]) -> None:
    cfg = train_api.prepare(train_api.parse_args([config, '--cfg-options', *options]))
    for option in options:
        key, value = option.split('=')
        found: Any = cfg
        for part in key.split('.'):
            found = found[int(part)] if isinstance(found, list) else found[part]
        assert str(found).replace(' ', '').strip('[]()') == value.strip('[]')


@pytest.mark.parametrize(('tool', 'options', 'expected'), [
    (train_api, ['val_dataloader=None'], 'detector.py has no val_dataloader: to train without validation set val_data'),
    (train_api, ['train_cfg=None', 'optim_wrapper=None'], 'detector.py has no train_cfg, optim_wrapper: it cannot be'),
    (test_tool, ['test_evaluator=None'], 'detector.py has no test_evaluator: .* test_evaluator = val_evaluator'),
    (visualize, ['test_dataloader=None', 'test_cfg=None'], 'has no test_dataloader, test_cfg: it cannot be tested'),
])  # fmt: skip
def test_half_a_loop(config: str, fail: Tool, tool: Any, options: list[str], expected: str) -> None:
    words = [config, 'x.pth'] if tool is test_tool else [config]
    assert re.search(expected, fail(tool.main, *words, '--cfg-options', *options))


def test_training_without_validation(config: str) -> None:
    options = [f'val_{part}=None' for part in ('dataloader', 'cfg', 'evaluator')]
    assert train_api.prepare(train_api.parse_args([config, '--cfg-options', *options])).val_cfg is None


def test_a_classifier_is_not_drawn(tmp_path: Path, fail: Tool) -> None:
    config = str(make_classifier(tmp_path))
    assert 'is of mmpretrain: only data sets of mmdet and mmseg can be drawn' in fail(visualize.main, config)


TRTVIT = """_base_ = 'detector.py'
model = dict(
    backbone=dict(_delete_=True, type='TRTViT', out_indices=(0, 1, 2, 3), arch='a',
                  init_cfg=dict(type='Pretrained', checkpoint='weights.pth')),
    neck=dict(in_channels=[256, 512, 1024, 1024]))
"""


@pytest.mark.parametrize(('more', 'expected'), [
    ('', r'weights\.pth: none of its 1 parameters .* has a place in this backbone .*init_cfg=None'),
    (", prefix='head'", r"weights\.pth: nothing in it begins with prefix='head\.'"),
    (", map_locaton='cpu'", r"init_cfg=.*of type 'Pretrained' it has checkpoint, and if need be"),
])  # fmt: skip
def test_a_checkpoint_that_a_backbone_cannot_begin_with(
    config: str, fail: Tool, tmp_path: Path, more: str, expected: str
) -> None:
    (tmp_path / 'mine.py').write_text(TRTVIT.replace("'weights.pth'", f"'weights.pth'{more}"))
    torch.save({'state_dict': {'of.another.model': torch.zeros(3)}}, tmp_path / 'weights.pth')
    assert re.search(expected, fail(train_api.main, 'mine.py'))


def test_the_demo_is_of_its_own_classes(config: str, fail: Tool, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(f"_base_ = {config!r}\ndata_root = 'shapes/'\n")
    said = fail(demo.main, '--config', 'mine.py')
    assert 'its classes are not those of the generated images: circle, triangle' in said
    assert not (tmp_path / 'shapes').exists()


def test_config_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Tool) -> None:
    monkeypatch.chdir(tmp_path)
    assert 'config not found' in fail(train_api.main, 'nowhere.py')
    assert 'mask_rcnn_trtvit.py' in fail(train_api.main, 'mask_rcnn_trtvti.py')
    (tmp_path / 'folder').mkdir()
    assert fail(train_api.main, 'folder') == 'folder is a folder, not a config file'


@pytest.mark.parametrize('name', ['_base_/runtime.py', 'deploy/detection_onnxruntime_static-320x320'])
@pytest.mark.parametrize('tool', ['train', 'test', 'visualize', 'flops'])
def test_config_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Tool, tool: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tools = {'train': train_api, 'test': test_tool, 'visualize': visualize, 'flops': flops}
    said = fail(tools[tool].main, name, *(['x.pth'] if tool == 'test' else []))
    assert re.search(f'{name.removesuffix(".py")}.py has no model: it is no model config', said), said


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a = dict(\n', "broken.py: syntax error in line 1: '(' was never closed"),
        ('a = 1\nb = undefined_name\n', 'undefined_name'),
        ("_base_ = 'other.py'\n", 'other.py'),
        ("_base_ = 'mmtrtvit::mask_rcnn_trtvti.py'\n", 'mask_rcnn_trtvit.py'),
        ("custom_imports = dict(imports=['no_such_module'])\n", 'no_such_module'),
    ],
)
def test_config_that_cannot_be_read(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Tool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'broken.py').write_text(text)
    message = fail(train_api.main, 'broken.py')
    assert message.startswith('broken.py: ')
    assert expected in message


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda d: d.pop('annotations'), 'has no annotations: a detection data set of COCO is'),
        (lambda d: (d.pop('images'), d.pop('categories')), 'has no images, categories'),
        (lambda d: d.update(images=[]), 'lists no images'),
        (lambda d: [c.update(name='z') for c in d['categories']], r'none of its categories (z, z, ...) is among'),
        (lambda d: d['images'][0].update(file_name='gone.png'), 'gone.png'),
    ],
)
def test_annotations(
    config: str, tmp_path: Path, fail: Tool, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    path = edit(tmp_path, change)
    message = fail(train_api.main, config)
    assert expected in message
    assert str(path) in message


@pytest.mark.parametrize('content', [b'<html>', b'', b'{"images": [', b'[1, 2]', b'\xff\xfe\x00'])
def test_annotations_that_are_not_json(config: str, tmp_path: Path, fail: Tool, content: bytes) -> None:
    path = tmp_path / 'data' / 'instances.json'
    path.write_bytes(content)
    message = fail(train_api.main, config)
    assert message.startswith(f'{path} (train_dataloader) is not a JSON annotation file of COCO')


@pytest.mark.parametrize(
    'wrap',
    [
        "dict(type='RepeatDataset', times=2, dataset={})",
        "dict(type='ConcatDataset', datasets=[{}, {}])",
        "dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[{}]))",
    ],
)
def test_missing_data_inside_wrappers(config: str, tmp_path: Path, fail: Tool, wrap: str) -> None:
    inner = "dict(type='CocoDataset', data_root='there/', ann_file='a.json', data_prefix=dict(img='i/'), pipeline=[])"
    (tmp_path / 'child.py').write_text(
        f"_base_ = 'detector.py'\ntrain_dataloader = dict(dataset=dict(_delete_=True, **{wrap.replace('{}', inner)}))\n"
    )
    message = fail(train_api.main, 'child.py')
    assert message.startswith('missing data: there/a.json (needed by train_dataloader, CocoDataset) and 1 more')
    assert 'there/annotations/instances_train2017.json' in message


def test_missing_file_of_the_evaluator(config: str, fail: Tool) -> None:
    message = fail(train_api.main, config, '--cfg-options', 'val_evaluator.ann_file=gone.json')
    assert 'gone.json (needed by val_evaluator, CocoMetric)' in message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    ('damage', 'expected'),
    [(lambda p: p.write_bytes(b'not an image'), 'damaged or not an image'), (lambda p: p.unlink(), 'No such file')],
)
def test_image_damaged_or_gone(
    config: str, tmp_path: Path, fail: Tool, damage: Callable[[Path], object], expected: str, workers: int
) -> None:
    """The third image: the first is looked at beforehand."""
    path = tmp_path / 'data' / 'images' / '0002.png'
    damage(path)
    message = fail(train_api.main, config, '--cfg-options', f'train_dataloader.num_workers={workers}')
    assert expected in message
    assert str(path) in message


def test_images_without_boxes_train(config: str, tmp_path: Path) -> None:
    edit(tmp_path, lambda d: d.update(annotations=d['annotations'][:2]))
    train_api.main([config, '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=5'])
    assert (tmp_path / 'work_dirs' / 'detector' / 'epoch_1.pth').is_file()


def checkpoint(path: Path, **state: torch.Tensor) -> str:
    torch.save({'state_dict': state, 'meta': {'epoch': 1, 'iter': 1}}, path)
    return str(path)


def test_checkpoints(config: str, tmp_path: Path, fail: Tool) -> None:
    message = fail(test_tool.main, config, 'nowhere.pth')
    assert message == 'checkpoint not found: nowhere.pth'
    (tmp_path / 'cut.pth').write_bytes(b'PK\x03\x04')
    assert fail(test_tool.main, config, 'cut.pth').startswith(
        'cut.pth (4 bytes): not a checkpoint that PyTorch can read'
    )
    (tmp_path / 'text.pth').write_bytes(b'hello')
    assert 'weights' not in fail(test_tool.main, config, 'text.pth').split('[')[1], "not PyTorch's advice to unprotect"
    (tmp_path / 'end2end.onnx').write_bytes(b'hello')
    message = fail(visualize.main, config, 'end2end.onnx')
    assert message.startswith('end2end.onnx (5 bytes): a deployed model, not a checkpoint: tools/test.py and')
    torch.save({'state_dict': {}, 'x': Path('p')}, tmp_path / 'evil.pth')
    assert 'refused, its pickle asks for pathlib.PosixPath' in fail(test_tool.main, config, 'evil.pth')
    assert fail(train_api.main, config, '--resume', 'nowhere.pth').startswith('checkpoint not found: nowhere.pth; ')
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'last_checkpoint').write_text('/gone/epoch_1.pth')
    assert 'w/last_checkpoint names /gone/epoch_1.pth' in fail(train_api.main, config, '--resume', '--work-dir', 'w')


def test_weights_that_cannot_be_downloaded(config: str, fail: Tool) -> None:
    """As when the default configs are used without a network; nothing listens on port 9."""
    url = 'http://127.0.0.1:9/w.pth'
    options = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={url}']
    message = fail(train_api.main, config, '--cfg-options', *options)
    assert message.startswith(f'{url}: cannot be downloaded (')
    assert 'model.backbone.init_cfg.checkpoint=PATH, ' in message
    assert message.endswith('model.backbone.init_cfg=None')


@pytest.mark.parametrize('tool', ['test', 'resume', 'load_from'])
def test_checkpoint_of_another_model(config: str, tmp_path: Path, fail: Tool, tool: str) -> None:
    path = checkpoint(
        tmp_path / 'other.pth', **{'backbone.conv1.weight': torch.zeros(64, 3, 7, 7), 'fc.bias': torch.zeros(2)}
    )
    if tool == 'test':
        message = fail(test_tool.main, config, path)
    elif tool == 'resume':
        message = fail(train_api.main, config, '--resume', path)
    else:
        message = fail(train_api.main, config, '--cfg-options', f'load_from={path}')
    assert 'It belongs to another model or config' in message
    assert 'other.pth: 0 of the ' in message
    assert 'other shape: backbone.conv1.weight (64, 3, 7, 7) for (8, 3, 7, 7)' in message
    assert 'not of this model: fc.bias' in message
    assert 'missing: backbone.bn1.weight' in message


def test_full_disk(config: str, fail: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = torch.save

    def save(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    monkeypatch.setattr(torch, 'save', save)
    try:
        message = fail(train_api.main, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'File too large' in message


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (RuntimeError('Found no NVIDIA driver on your system. Please check'), 'a GPU was asked for'),
        (RuntimeError('CUDA error: invalid device ordinal\nmore'), 'a GPU was asked for .* invalid device ordinal$'),
        (RuntimeError('CUDA out of memory. Tried to allocate 2 GiB\nmore'), r'test_dataloader\.batch_size lower$'),
        (OSError(30, 'Read-only file system', 'd'), "'d'; that file system is read-only: choose another place$"),
        (OSError(17, 'File exists', 'f'), "'f'; a part of that path is a file, not a folder: choose another place$"),
        (FileNotFoundError(2, 'No such file', 'x.py'), r"^\[Errno 2\] No such file: 'x.py'$"),
        (RuntimeError('(-4:Insufficient memory) Failed to allocate'), r'^out of memory: .*make the images smaller'),
        (MemoryError(), r'^out of memory: MemoryError; make the images smaller'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), r'^out of memory: .*batch_size lower$'),
        (RuntimeError('Storage size calculation overflowed with sizes=[1]'), r'^out of memory: .* images smaller'),
        (OSError(28, 'No space left on device'), 'the disk is full: .* free some space$'),
        (
            OSError(28, 'cannot write x: No space left on device; the disk is full: free some space.'),
            '^((?!full).)*the disk is full: free some space.$',
        ),
        (RuntimeError('[enforce fail at x.cc:1] . No space left on device'), 'the disk is full'),
        (PermissionError(13, 'Permission denied', '/x'), 'Permission denied'),
        (json.JSONDecodeError('Expecting value', 'x', 0), 'not JSON'),
        (
            AssertionError(
                'Caught AssertionError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
                '  File "x.py", line 1\nAssertionError: failed to load image: /d/1.jpg\n'
            ),
            '^an image is damaged or not an image: failed to load image: /d/1.jpg',
        ),
    ],
)
def test_explanations(error: Exception, expected: str) -> None:
    assert re.search(expected, str(explain(error)))


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (RuntimeError('CUDA out of memory'), r'train_dataloader\.batch_size lower, .*--amp$'),
        (OSError(28, 'No space left on device'), r'free some space\. The last checkpoint is whole: --resume goes on$'),
    ],
)
def test_explanations_in_a_training(error: Exception, expected: str) -> None:
    assert re.search(expected, str(explain(error, '--resume goes on')))


def test_a_defect_keeps_its_traceback() -> None:
    assert explain(ZeroDivisionError('division by zero')) is None
    assert 'mmcv' in str(explain(MissingOpError('a compiled mmcv has it')))

    def broken(argv: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(broken, [])


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: Any) -> None:
        raise UserError('wrong')

    with pytest.raises(UserError):
        run_tool(broken, ['--debug'])
    monkeypatch.setenv(errors.DEBUG_VARIABLE, '1')
    with pytest.raises(UserError):
        run_tool(broken, [])
    monkeypatch.setenv(errors.DEBUG_VARIABLE, '0')
    with pytest.raises(SystemExit):
        run_tool(broken, [])


@pytest.mark.parametrize(
    ('module', 'tool', 'expected'),
    [
        (train_api, 'train', 'interrupted; --resume goes on from the last checkpoint\n'),
        (demo, 'demo', 'interrupted; the same command goes on from the last checkpoint\n'),
        (test_tool, 'evaluate', 'interrupted\n'),
        (visualize, 'visualize', 'interrupted\n'),
        (flops, 'get_flops', 'interrupted\n'),
    ],
)
def test_ctrl_c(
    module: Any, tool: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where there is a training is one spoken of."""

    def interrupted(argv: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, tool, interrupted)
    with pytest.raises(SystemExit) as stop:
        module.main([])
    assert stop.value.code == 130
    assert capsys.readouterr().err == expected


def test_near() -> None:
    assert near('max_epoch', ['max_epochs', 'val_begin']) == '; did you mean max_epochs?'
    assert near('zzz', ['max_epochs']) == ''
