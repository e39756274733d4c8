"""The devices that tests run on: the CPU, a stand-in for an accelerator, and a GPU where there is one.

Tensors of the stand-in say that they are on a device of its own, and the CPU computes with them. What a GPU refuses, it
refuses: an operation on tensors of two devices, ``numpy()``. So code that loses track of the device of its tensors
fails here as it would on a GPU. What the stand-in cannot show is a GPU's own kernels: their numbers, their order of
summation, their speed.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from mmengine.structures import instance_data
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CPU = torch.device('cpu')

COPIES = {aten._copy_from.default, aten._to_copy.default, aten.copy_.default}

#: A GPU's tensor may be indexed by numbers that lie on the CPU.
INDEXING = {aten._index_put_impl_.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default}

#: What a GPU answers only when it has done all that it was given: the host waits.
WAITS = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_dim.default,
    torch.ops.torchvision.nms.default,
}

#: What PyTorch calls where no tensor is among the arguments, or past a tensor's ``__torch_dispatch__``.
KERNELS = [
    aten._copy_from.default,
    aten._index_put_impl_.default,
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.copy_.default,
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.eye.default,
    aten.eye.m,
    aten.index.Tensor,
    aten.index_put_.default,
    aten.linspace.default,
    aten.randperm.default,
]


class StandInTensor(Tensor):
    """A tensor on ``standin:0``, whose numbers are in the tensor ``values`` on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> StandInTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device('standin', 0),
        )
        tensor.values = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]  # an attribute of Tensor; what asks takes CUDA's way
        return True

    def __repr__(self) -> str:
        return f'{self.values!r} on {self.device}'

    def tolist(self) -> Any:
        return self.values.tolist()


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation of the stand-in on the CPU.

    Raises:
        RuntimeError: Tensors of both devices are given. A single number may lie on the CPU, as with a GPU.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    together = [] if func in COPIES else [args[0], *args[2:]] if func in INDEXING else tensors
    if any(isinstance(leaf, Tensor) and not isinstance(leaf, StandInTensor) and leaf.dim() for leaf in together):
        raise RuntimeError(f'{func}: Expected all tensors to be on the same device, but found standin:0 and cpu!')
    if _capturing and _host_takes_part(func, args, kwargs, tensors):
        raise RuntimeError(f'{func}: operation not permitted when stream is capturing')
    where = torch.device(kwargs.get('device') or 'standin')
    options = {key: CPU if key == 'device' else value for key, value in kwargs.items() if key != 'pin_memory'}
    result = func(*tree_map(_on_cpu, args), **tree_map(_on_cpu, options))
    written = {id(leaf.values): leaf for leaf in tensors if isinstance(leaf, StandInTensor)}

    def on_standin(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in written:
            return StandInTensor(leaf)
        tensor = written[id(leaf)]
        assert tensor.shape == leaf.shape, f'{func} resized what it wrote to: the stand-in needs a kernel for it'
        return tensor

    return result if where == CPU or func is aten._copy_from.default else tree_map(on_standin, result)


def _host_takes_part(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> bool:
    if func in COPIES:
        devices = {leaf.device.type for leaf in tensors} | {torch.device(kwargs.get('device') or 'standin').type}
        return devices != {'standin'}
    if func in INDEXING:  # by a mask: how many numbers come out?
        return any(leaf is not None and leaf.dtype in (torch.bool, torch.uint8) for leaf in args[1])
    return func in WAITS


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Refuse what a CUDA graph cannot hold while it is captured: copies from and to the host, waiting for a result."""
    global _capturing
    _capturing = True
    try:
        yield
    finally:
        _capturing = False


_capturing = False


def _on_cpu(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, StandInTensor) else leaf


def _kernel(func: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: compute(func, args, kwargs)


class _Backend:
    """``torch.standin``: not available, or PyTorch would take it for the machine's accelerator in every test."""

    def is_available(self) -> bool:
        return False

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False


def _register() -> bool:
    """Make the device known. Autograd counts the devices at the first backward pass: before that.

    Returns:
        False where PyTorch cannot have a device that is written in Python.
    """
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError:
        return False

    set_up('standin', backend_module=_Backend())
    for func in KERNELS:
        _LIBRARY.impl(func.name().removeprefix('aten::'), _kernel(func), 'PrivateUse1')
    # mmengine lists the types that may index its instances by device
    instance_data.IndexType = typing.Union[(*typing.get_args(instance_data.IndexType), StandInTensor)]
    return True


_LIBRARY = torch.library.Library('aten', 'IMPL')
#: Where there is a GPU, it is taken: PyTorch would hold the stand-in for the machine's accelerator.
HAS_STANDIN = not torch.cuda.is_available() and _register()

needs_standin = pytest.mark.skipif(
    not HAS_STANDIN, reason='needs a PyTorch with devices written in Python, and no GPU, which is taken instead'
)
STANDIN = pytest.param('standin', marks=needs_standin)
CUDA = pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'))

#: For what the stand-in has not: automatic mixed precision, backward passes within backward passes.
REAL_DEVICES = ['cpu', CUDA]
DEVICES = ['cpu', STANDIN, CUDA]
ACCELERATORS = [STANDIN, CUDA]


def on_accelerators(*values: Any) -> list[Any]:
    """Parameters of a test that expects other values there than on the CPU: device, then the values."""
    return [pytest.param(*param.values, *values, marks=param.marks) for param in ACCELERATORS]
