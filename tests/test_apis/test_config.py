"""Which file a CONFIG argument means, and what the printing tool prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmtrtvit.apis.config import default_work_dir, load_config, resolve_config
from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.print_config import print_config
from mmtrtvit.compat import CONFIG_ROOT

OURS = CONFIG_ROOT / 'mask_rcnn_trtvit.py'


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_trtvit.py',
        'mask_rcnn_trtvit',
        'configs/mask_rcnn_trtvit.py',
        'mmtrtvit::mask_rcnn_trtvit.py',
        str(OURS),
    ],
)
def test_names_of_our_configs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_config(name) == OURS


def test_a_file_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('mask_rcnn_trtvit.py').write_text('a = 1\n')
    assert resolve_config('mask_rcnn_trtvit.py') == Path('mask_rcnn_trtvit.py')
    assert load_config('mask_rcnn_trtvit.py', {'a': 2}).a == 2


def test_unknown_config_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r'Near it: .*retinanet_trtvit\.py'):
        resolve_config('retinanet_trtvti.py')


@pytest.mark.parametrize(('name', 'scope'), [
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'mmdet'),
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco', 'mmdet'),
    ('mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py', 'mmseg'),
    ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'mmpretrain'),
])  # fmt: skip
def test_configs_of_the_libraries(name: str, scope: str) -> None:
    assert load_config(name).default_scope == scope


def test_an_unknown_config_of_a_library_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r'mmdet has no such config below .*Near it: .*retinanet/retinanet_r50_fpn_1x'):
        resolve_config('mmdet::retinanet_r50_fpn_1x_coco.py')


@pytest.mark.parametrize('name', ['mmdet::a/b.py', 'configs/a/b.py', 'mmtrtvit::a/b.py', 'b'])
def test_work_dir(name: str) -> None:
    assert default_work_dir(name) == 'work_dirs/b'


def test_printed_config_is_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    print_config(['mmtrtvit::mask_rcnn_trtvit', '--cfg-options', 'train_dataloader.batch_size=3'])
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    expected = Config.fromfile(OURS)
    expected.train_dataloader.batch_size = 3
    assert printed.to_dict() == expected.to_dict()
