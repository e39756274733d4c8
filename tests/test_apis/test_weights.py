"""Which checkpoints are of a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.weights import CheckWeightsHook


def check(state: dict[str, Any]) -> None:
    runner: Any = SimpleNamespace(model=nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    CheckWeightsHook('w.pth', 0.5).after_load_checkpoint(runner, {'state_dict': state})


def test_its_own_weights_are_taken() -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    check(state)
    check({f'module.{name}': value for name, value in state.items()})


def test_arrays_instead_of_tensors_are_refused() -> None:
    """mmengine copies none of them and goes on."""
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    with pytest.raises(UserError, match=r'w\.pth: 0 of the 6 tensors of this Sequential are in it'):
        check({name: value.numpy() for name, value in state.items()})


def test_weights_under_another_key_are_found() -> None:
    weights = nn.Linear(2, 3).state_dict()
    runner: Any = SimpleNamespace(model=nn.Linear(2, 3))
    hook = CheckWeightsHook('w.pth', 0.5)
    with pytest.raises(
        UserError, match=r"under 'model', where OpenMMLab wants state_dict: .*load\('w\.pth'\)\['model'\]"
    ):
        hook.after_load_checkpoint(runner, {'model': weights, 'epoch': 3, 'optimizer': {'state': {}}})
    hook.after_load_checkpoint(runner, {'state_dict': weights, 'ema': weights})


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r'other shape: 0\.weight \(4, 2\) for \(3, 2\)'):
        check({'0.weight': torch.zeros(4, 2)})
