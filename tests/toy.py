"""A training of milliseconds with every kind of randomness, for tests of resuming and saving."""

from __future__ import annotations

import pickle
import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mmtrtvit  # noqa: F401  applies the mends


@DATASETS.register_module()
class NoisyNumbers(Dataset):
    """Sample ``i`` is ``i`` and three random numbers, one of each generator a transform may use."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.drawn = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.drawn += 1
        noise = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return {'inputs': torch.tensor([float(index), *noise])}


@MODELS.register_module()
class NoisyModel(BaseModel):
    """Dropout, batch norm and numpy's generator in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )

    def forward(self, inputs: list[torch.Tensor], mode: str = 'tensor') -> Any:
        return {'loss': (self.layers(torch.stack(inputs)) - np.random.rand() - random.random()).square().mean()}


class QuietRunner(Runner):
    """Does not ask compilers and git for their versions, which takes longer than the training."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass


class Recorder(Hook):
    """Keeps the loss and the data of every iteration; stops the training after ``stop`` of them."""

    priority = 'LOWEST'

    def __init__(self, stop: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.data: dict[int, list[list[float]]] = {}
        self.stop = stop

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses[runner.iter] = outputs['loss'].item()
        self.data[runner.iter] = [sample.tolist() for sample in data_batch['inputs']]
        if self.stop is not None and runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


def run(work_dir: Path, *, by_epoch: bool, exact: bool = True, stop: int | None = None, resume: bool = False,
        workers: int = 0, seed: int | None = 3, **changes: Any) -> tuple[Recorder, Runner]:  # fmt: skip
    """Train for 12 iterations of 2 samples, saving every epoch of 4 or every 3 iterations."""
    recorder = Recorder(stop)
    settings: dict[str, Any] = {
        'model': {'type': 'NoisyModel'},
        'work_dir': str(work_dir),
        'train_dataloader': {
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': workers > 0,
            'sampler': {'type': 'DefaultSampler' if by_epoch else 'InfiniteSampler', 'shuffle': True},
            'dataset': {'type': 'NoisyNumbers', 'size': 8},
        },
        'train_cfg': {'by_epoch': True, 'max_epochs': 3} if by_epoch else {'by_epoch': False, 'max_iters': 12},
        'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.05}},
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 0.1, 'begin': 0, 'end': 6, 'by_epoch': False},
            {'type': 'MultiStepLR', 'milestones': [8], 'by_epoch': False},
        ],
        'default_hooks': {
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': by_epoch, 'interval': 1 if by_epoch else 3}
        },
        'custom_hooks': [recorder, {'type': 'EMAHook'}, *([{'type': 'ExactResumeHook'}] if exact else [])],
        'randomness': {'seed': seed},
        'resume': resume,
        'log_level': 'ERROR',
    }
    settings.update(changes)
    seen_by_the_hook = {key: settings[key] for key in ('train_dataloader', 'randomness')}
    cfg = Config(seen_by_the_hook, format_python_code=False)
    runner = QuietRunner(**settings, cfg=cfg, experiment_name=uuid.uuid4().hex)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop is not None
    # end the loading processes now: collected later, within a fork of another test, each takes seconds to join
    runner.train_loop.dataloader._iterator = None
    runner.train_loop.dataloader_iterator = None
    return recorder, runner


def weights(runner: Runner) -> bytes:
    return pickle.dumps([value.numpy().tobytes() for value in runner.model.state_dict().values()])
