"""Several processes on the CPU: what mmengine's wrapper is given there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.model import BaseModel, MMDistributedDataParallel
from torch import nn

from mmtrtvit import compat

compat.install()


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU())

    def forward(self, inputs: torch.Tensor, data_samples: None = None, mode: str = 'tensor') -> torch.Tensor:
        return self.layers(inputs)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sync_batch_norm_trains_on_the_cpu(one_process: None) -> None:
    """It equals BN, keeps the optimizer's parameters, and a GPU's number for a CPU model does no harm."""
    torch.manual_seed(0)
    model = Model()
    reference = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    reference.load_state_dict(model.layers.state_dict())
    weights = {name: id(parameter) for name, parameter in model.named_parameters()}

    wrapped = MMDistributedDataParallel(module=model, device_ids=[0])
    image = torch.randn(2, 3, 8, 8)
    out = wrapped(image)
    torch.testing.assert_close(out, reference(image))
    out.sum().backward()
    assert {name: id(parameter) for name, parameter in wrapped.module.named_parameters()} == weights
    assert wrapped.module.layers[1].weight.grad is not None
