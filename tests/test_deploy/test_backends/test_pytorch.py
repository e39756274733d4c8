"""PyTorch as a runner: the reference that engines are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmtrtvit.deploy.backends import BackendError, LoadOptions, TensorSpec, get_backend
from mmtrtvit.deploy.backends.pytorch import CudaGraphBackend, PyTorchBackend, PyTorchRunner, TorchCompileBackend
from tests.test_deploy.test_backends.fake_tensorrt import FakeGraph, pretend_cuda


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 4, 3), nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.drop(self.conv(image))
        return x, x.flatten(1).argmax(1)


@pytest.fixture
def module() -> Two:
    torch.manual_seed(0)
    return Two()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pytorch() -> PyTorchBackend:
    backend = get_backend('pytorch')
    assert isinstance(backend, PyTorchBackend)
    return backend


def test_eager(module: Two, image: torch.Tensor) -> None:
    runner = pytorch().wrap(module, {'image': image}, ('features', 'best'))
    outputs = runner({'image': image})
    expected, best = module.eval()(image)
    assert torch.equal(outputs['features'], expected)
    assert torch.equal(outputs['best'], best)
    assert not outputs['features'].requires_grad
    assert [str(spec) for spec in runner.outputs] == ['features float32 (2, 4, 6, 6)', 'best int64 (2)']
    with pytest.raises(BackendError, match=r"input 'image' has the shape \(1, 3, 8, 8\)"):
        runner({'image': image[:1]})
    runner.close()
    with pytest.raises(BackendError, match='closed'):
        runner({'image': image})


def test_dicts_and_single_tensors(image: torch.Tensor) -> None:
    class Named(nn.Module):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {'a': image + 1, 'b': image + 2}

    assert list(pytorch().wrap(Named(), {'image': image}, ('b',))({'image': image})) == ['b']
    with pytest.raises(BackendError, match="the module gives a, b, but not 'c'"):
        pytorch().wrap(Named(), {'image': image}, ('c',))({'image': image})
    assert torch.equal(pytorch().wrap(nn.ReLU(), {'x': image}, ('y',))({'x': image})['y'], image.relu())


def test_the_number_of_names_is_checked(module: Two, image: torch.Tensor) -> None:
    with pytest.raises(BackendError, match='the module gives 2 outputs, but 1 names'):
        pytorch().wrap(module, {'image': image}, ('features',))({'image': image})


def test_dynamic_sizes(module: Two, image: torch.Tensor) -> None:
    spec = TensorSpec('image', 'float32', ('batch', 3, 8, 8))
    assert pytorch().wrap(module, (spec,), ('features', 'best'))({'image': image[:1]})['best'].shape == (1,)


@pytest.mark.slow
def test_compile(module: Two, image: torch.Tensor) -> None:
    backend = get_backend('torch-compile')
    assert isinstance(backend, PyTorchBackend)
    outputs = backend.wrap(module, {'image': image}, ('features', 'best'))({'image': image})
    torch.testing.assert_close(outputs['features'], module.eval()(image)[0], rtol=1e-4, atol=1e-5)


def test_compiling_many_models_compiles_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch stops compiling a function after eight versions of it, and all models here share one ``forward``."""
    torch._dynamo.reset()
    compile_ = torch.compile
    compiled: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(number)
        return graph.forward

    monkeypatch.setattr(torch, 'compile', lambda module: compile_(module, backend=count))
    for number in range(12):
        x = torch.rand(1, 4)
        runner = TorchCompileBackend().wrap(nn.Sequential(*[nn.ReLU()] * (number + 1)), {'x': x}, ('y',))
        assert torch.equal(runner({'x': x})['y'], x)
    assert set(compiled) == set(range(12))


def test_profile(module: Two, image: torch.Tensor) -> None:
    runner = pytorch().wrap(module, {'image': image}, ('features', 'best'))
    costs = runner.profile({'image': image}, runs=2)
    assert {cost.name: cost.kind for cost in costs} == {'conv': 'Conv2d', 'drop': 'Dropout'}
    assert not module.conv._forward_hooks
    assert not module.conv._forward_pre_hooks


@pytest.mark.skipif(torch.cuda.is_available(), reason='says what is missing where there is no GPU')
def test_cudagraph_without_a_gpu(module: Two, image: torch.Tensor) -> None:
    with pytest.raises(
        BackendError, match="CUDA graphs need an NVIDIA GPU, and PyTorch sees none here: use backend 'pytorch'"
    ):
        CudaGraphBackend().wrap(module, {'image': image}, ('features', 'best'))
    assert not CudaGraphBackend().availability().can_run


def test_cudagraph_captures_once_and_replays(module: Two, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls, on a pretended GPU: the real one was not at hand."""
    pretend_cuda(monkeypatch)
    with pytest.raises(BackendError, match="CUDA graphs run on device='cuda' only"):
        CudaGraphBackend().wrap(module, {'image': image}, ('features', 'best'))
    runner = PyTorchRunner(module, (TensorSpec('image', 'float32', tuple(image.shape)),), ('features', 'best'))
    runner._mode = 'cudagraph'
    before = FakeGraph.replays
    first, second = runner({'image': image}), runner({'image': image})
    assert FakeGraph.replays == before + 2
    assert torch.equal(first['features'], module.eval()(image)[0])
    assert first['features'].data_ptr() != second['features'].data_ptr()


def test_there_is_no_engine_file(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r'pytorch has no engine file: wrap the module'):
        pytorch().load(tmp_path / 'x')
    with pytest.raises(BackendError, match=r'pytorch has no engine file: wrap the module'):
        pytorch().build('a.onnx', tmp_path / 'x')
    with pytest.raises(BackendError, match=r"mode='fast': must be one of 'eager', 'compile', 'cudagraph'"):
        PyTorchRunner(nn.ReLU(), (), (), mode='fast')
    with pytest.raises(BackendError, match=r'LoadOptions\.threads=2: pytorch has no such option'):
        pytorch().wrap(nn.ReLU(), (), (), options=LoadOptions(threads=2))
