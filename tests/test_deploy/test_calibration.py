from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('onnxruntime')

from mmtrtvit.apis.errors import UserError
from mmtrtvit.deploy.calibration import CalibrationBatches, calibration_batches, image_paths
from mmtrtvit.deploy.config import CalibrationOptions, DeployConfig
from mmtrtvit.deploy.graphs import GraphOptions
from mmtrtvit.deploy.preprocess import Letterbox
from tests.tiny import DETECTOR, make_coco


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    root = make_coco(tmp_path / 'data')
    (tmp_path / 'model.py').write_text(DETECTOR.format(root=f'{root}/'))
    return Config.fromfile(tmp_path / 'model.py')


def deploy_config(images: int, split: str = 'val', batch_size: int = 1) -> DeployConfig:
    graph = GraphOptions(height=32, width=64, batch_size=batch_size)
    return DeployConfig('deploy.py', 'detection', graph, calibration=CalibrationOptions(images=images, split=split))


def test_images_are_spread_over_the_data_set_and_fill_the_batch(cfg: Config) -> None:
    letterbox = Letterbox(32, 64, mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0), to_rgb=True)
    found = calibration_batches(cfg, deploy_config(3, batch_size=2), letterbox)
    assert [Path(path).name for path in found.paths] == ['0000.png', '0002.png', '0005.png']
    assert len(found) == 2
    for _ in range(2):  # read anew as often as it is asked for
        batches = list(found)
        assert [batch['image'].shape for batch in batches] == [(2, 3, 32, 64)] * 2
        assert {batch['image'].dtype for batch in batches} == {np.dtype('float32')}
        whole = np.concatenate([batch['image'] for batch in batches])
        for index, path in enumerate([*found.paths, found.paths[0]]):
            torch.testing.assert_close(torch.from_numpy(whole[index]), letterbox(path).tensor, rtol=0, atol=0)
    assert len(calibration_batches(cfg, deploy_config(100), letterbox).paths) == 6


def test_the_engine_may_take_bytes(cfg: Config) -> None:
    found = calibration_batches(cfg, deploy_config(1), Letterbox(32, 64, image_dtype='uint8'))
    (batch,) = found
    assert batch['image'].shape == (1, 32, 64, 3)
    assert batch['image'].dtype == np.uint8


def test_splits_and_wrapped_data_sets(cfg: Config) -> None:
    everything = image_paths(cfg, 'val')
    assert len(everything) == 6
    part = cfg.train_dataloader.dataset.copy()
    pipeline = part.pop('pipeline')
    wrapped = dict(
        type='MultiImageMixDataset',
        pipeline=[dict(type='Mosaic'), *pipeline],
        dataset=dict(
            type='ConcatDataset',
            datasets=[dict(**part, pipeline=pipeline), dict(type='RepeatDataset', times=2, dataset=part)],
        ),
    )
    train = image_paths(cfg, 'train')
    assert set(train) <= set(everything)
    cfg.train_dataloader.dataset = wrapped
    assert image_paths(cfg, 'train') == train * 2
    assert cfg.train_dataloader.dataset.pipeline  # the config is as it was


def test_a_data_set_that_is_not_there(cfg: Config) -> None:
    cfg.test_dataloader = None
    name = re.escape(str(cfg.filename))
    with pytest.raises(UserError, match=f'{name}: test_dataloader has no dataset to calibrate on: set calib_config'):
        image_paths(cfg, 'test')
    cfg.val_dataloader.dataset.ann_file = 'gone.json'
    with pytest.raises(UserError, match=r'val_dataloader: the data set for int8 calibration cannot be read: FileNotF'):
        image_paths(cfg, 'val')
    cfg.train_dataloader.dataset.type = 'NoSuchDataset'
    with pytest.raises(UserError, match='NoSuchDataset'):
        image_paths(cfg, 'train')


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / 'gone.jpg')
    with pytest.raises(UserError, match=re.escape(missing)):
        list(CalibrationBatches([missing], Letterbox(32, 32), 1))
