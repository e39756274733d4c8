"""The stand-in for an accelerator: that it computes, and that it refuses what a GPU refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from tests.devices import ACCELERATORS, capturing, needs_standin


@pytest.mark.parametrize('device', ACCELERATORS)
def test_gradients_are_the_cpus(device: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    gradients = []
    for where in ('cpu', device):
        leaves = [tensor.clone().to(where).requires_grad_() for tensor in (x, weight)]
        torch.nn.functional.conv2d(*leaves).relu().square().mean().backward()
        assert all(leaf.grad is not None and leaf.grad.device.type == where for leaf in leaves)
        gradients.append([leaf.grad.cpu() for leaf in leaves])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('device', ACCELERATORS)
@pytest.mark.parametrize(
    'forgetful',
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.zeros(3)]),
        lambda x: torch.where(x > 0, x, torch.zeros(3)),
        lambda x: torch.stack([x, x.cpu()]),
        lambda x: x.add_(torch.arange(3)),
        lambda x: torch.full((3,), 1.0)[x > 0],
        lambda x: x.index_add_(0, torch.arange(3), x),
    ],
)
def test_two_devices_are_refused(device: str, forgetful: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r'same device|indices should be either on'):
        forgetful(torch.tensor([-1.0, 0.0, 1.0], device=device))


@pytest.mark.parametrize('device', ACCELERATORS)
def test_what_may_cross(device: str) -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], device=device)
    assert (x * torch.tensor(2.0)).tolist() == [-2.0, 0.0, 2.0]
    assert x[torch.tensor([2, 0])].tolist() == [1.0, -1.0]
    assert x[[2, 0]].device == x.device
    assert torch.zeros(3).copy_(x).tolist() == x.tolist()
    assert x.copy_(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize('device', ACCELERATORS)
def test_numpy_needs_the_cpu(device: str) -> None:
    x = torch.arange(3, device=device)
    with pytest.raises((TypeError, RuntimeError)):
        x.numpy()
    assert x.cpu().numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    'waits',
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: torchvision.ops.nms(x.expand(2, 3)[:, [0, 0, 2, 2]], x[:2], 0.5),
    ],
)
@needs_standin
def test_the_host_takes_no_part_in_a_capture(waits: Callable[[Tensor], Any]) -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).to('standin')
    waits(x)
    with capturing():
        assert ((x * 2 + 1).relu() @ x).device == x.device
        with pytest.raises(RuntimeError, match='not permitted when stream is capturing'):
            waits(x)
