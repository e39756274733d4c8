"""The same tools for segmentors, by iterations, and for classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine import load as load_file

from mmtrtvit.apis.test import evaluate
from mmtrtvit.apis.train import train
from tests.tiny import make_classifier, make_segmentor


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_segmentor(tmp_path: Path) -> None:
    """Trains, evaluates, and from its second checkpoint ends with the weights of the whole run."""
    config = str(make_segmentor(tmp_path))
    # a visualizer of its own: mmengine gives the one of a name that is there already, with its folder
    options = ['--cfg-options', 'randomness.seed=1', 'visualizer.name=of_this_test']
    train([config, '--work-dir', 'whole', *options])
    train([config, '--work-dir', 'rest', '--resume', 'whole/iter_2.pth', *options])
    whole, rest = (torch.load(tmp_path / name / 'iter_6.pth')['state_dict'] for name in ('whole', 'rest'))
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert any('iter_2' not in name and not torch.equal(value, torch.load('whole/iter_2.pth')['state_dict'][name])
               for name, value in whole.items())  # fmt: skip
    assert [path.name for path in Path('whole').glob('best_mIoU_*.pth')] == ['best_mIoU_iter_6.pth']
    options += ['train_dataloader.dataset.data_root=nowhere/']  # training images are not needed
    metrics = evaluate([config, 'whole/iter_6.pth', '--out', 'r.pkl', '--show-dir', 'shown', *options])
    assert set(metrics) >= {'mIoU', 'aAcc', 'mAcc'}
    results = load_file('r.pkl')
    assert [tuple(result['pred_sem_seg']['data'].shape) for result in results] == [(1, 32, 32)] * 4
    found = np.stack([result['pred_sem_seg']['data'][0].numpy() for result in results])
    masks = sorted((tmp_path / 'data' / 'masks').glob('*.png'))
    truth = np.stack([cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) for mask in masks])
    shares = [((found == k) & (truth == k)).sum() / ((found == k) | (truth == k)).sum() for k in range(3)]
    assert metrics['mIoU'] == pytest.approx(100 * np.mean(shares), abs=0.0051)
    assert metrics['aAcc'] == pytest.approx(100 * (found == truth).mean(), abs=0.0051)
    # in one process the visualizer of the training is used again, with its folder
    assert len(list(Path().rglob('vis_image/test_*.png'))) == 4


def test_classifier(tmp_path: Path) -> None:
    config = str(make_classifier(tmp_path))
    train([config, '--cfg-options', 'randomness.seed=1'])
    metrics = evaluate([config, 'work_dirs/classifier/epoch_2.pth', '--out', 'r.pkl', '--show-dir', 'shown'])
    assert set(metrics) == {'accuracy/top1'}
    results = load_file('r.pkl')
    right = sum(int(result['pred_label']) == int(result['gt_label']) for result in results)
    assert metrics['accuracy/top1'] == pytest.approx(100 * right / 6)
    assert len(list(Path('shown').rglob('*.png'))) == 6
