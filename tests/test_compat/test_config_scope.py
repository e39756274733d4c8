"""``mmtrtvit::`` as a base, as users write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.config import ConfigParsingError

from mmtrtvit.compat import CONFIG_ROOT, config_path, config_scope


@pytest.mark.parametrize('name', ['mask_rcnn_trtvit', 'mask_rcnn_trtvit.py', 'mmtrtvit::mask_rcnn_trtvit.py'])
def test_path(name: str) -> None:
    assert config_path(name) == CONFIG_ROOT / 'mask_rcnn_trtvit.py'


def test_inherited_from_anywhere(tmp_path: Path) -> None:
    child = tmp_path / 'mine.py'
    child.write_text("_base_ = 'mmtrtvit::retinanet_trtvit.py'\ntrain_dataloader = dict(batch_size=7)\n")
    cfg, ours = Config.fromfile(child), Config.fromfile(CONFIG_ROOT / 'retinanet_trtvit.py')
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.model.to_dict() == ours.model.to_dict()
    assert cfg.default_scope == 'mmdet'


def test_in_a_list_beside_a_base_of_mmdet(tmp_path: Path) -> None:
    child = tmp_path / 'mine.py'
    child.write_text("_base_ = ['mmdet::_base_/default_runtime.py', 'mmtrtvit::_base_/backbones/trtvit-c.py']\n")
    cfg = Config.fromfile(child)
    assert cfg.default_scope == 'mmdet'
    assert 'backbone' in cfg


def test_one_of_ours_that_inherits_a_subfolder() -> None:
    cfg = Config.fromfile(config_path('swin/retinanet_swin-t'))
    assert cfg.model.backbone.type.endswith('SwinTransformer')


@pytest.mark.parametrize('name', ['mmtrtvit::no_such_thing.py', 'mmtrtvit::mask_rcnn_trtvti.py'])
def test_unknown_name(name: str, tmp_path: Path) -> None:
    child = tmp_path / 'mine.py'
    child.write_text(f'_base_ = {name!r}\n')
    with pytest.raises(ConfigParsingError, match='mmtrtvit has no such config') as error:
        Config.fromfile(child)
    if 'rcnn' in name:
        assert 'mask_rcnn_trtvit.py' in str(error.value)


def test_outside_our_folder_is_not_ours() -> None:
    with pytest.raises(ConfigParsingError):
        config_path('../setup.py')


def test_other_scopes_are_left_alone() -> None:
    path, scope = Config._get_cfg_path('mmdet::_base_/default_runtime.py', 'x.py')
    assert (Path(path).is_file(), scope) == (True, 'mmdet')
    with pytest.raises(ValueError, match='please specify the package name and relative config path'):
        Config._get_cfg_path('mmdet::a.py', 'x.py')


def test_as_a_namespace() -> None:
    names = config_scope.load_as_namespace('mask_rcnn_trtvit')
    assert names['model']['type'] == 'MaskRCNN'
    assert names['default_scope'] == 'mmdet'


def test_install_twice() -> None:
    before = Config._get_cfg_path
    config_scope.install()
    assert Config._get_cfg_path is before
