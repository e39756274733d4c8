"""The words that all backends share: a tensor's contract, a layer's cost, what a machine can do, what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mmtrtvit.errors import UserError

__all__ = ['Availability', 'BackendError', 'LayerCost', 'MissingPartError', 'Progress', 'TensorSpec', 'spec_of']

#: ``progress(phase, step, steps)``: called from the builder's thread with ``step`` from 0 to ``steps``.
Progress = Callable[[str, int, int], None]


class BackendError(UserError, RuntimeError):
    """Something that the user can put right; the message names the file, the value and the way out."""


class MissingPartError(BackendError):
    """What was asked needs a part of the library that is not installed here."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of an engine's input or output.

    Attributes:
        name: The tensor's name in the graph.
        dtype: As PyTorch and NumPy write it: ``float32``, ``float16``, ``uint8``, ``int64``, ``bool``.
        shape: A number for a static dimension, a name for a dynamic one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if str(getattr(torch, self.dtype, None)) != f'torch.{self.dtype}':  # torch.float is torch.float32
            raise BackendError(f'tensor {self.name!r}: {self.dtype!r} is no tensor type; float32, int64, bool are')

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same type as PyTorch's."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def dynamic(self) -> bool:
        """Whether a dimension is only known at run time."""
        return any(isinstance(size, str) for size in self.shape)

    def resolve(self, sizes: dict[str, int]) -> tuple[int, ...] | None:
        """The shape with ``sizes`` in the place of names, or None when one is not there."""
        shape = [sizes.get(size, -1) if isinstance(size, str) else size for size in self.shape]
        return None if -1 in shape else tuple(shape)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {'shape': list(self.shape)}

    def __str__(self) -> str:
        return f'{self.name} {self.dtype} ({", ".join(str(size) for size in self.shape)})'


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """The contract that ``tensor`` fulfils."""
    return TensorSpec(name, str(tensor.dtype).removeprefix('torch.'), tuple(tensor.shape))


@dataclass(frozen=True)
class LayerCost:
    """What one layer of an engine costs.

    Attributes:
        name: As the backend calls it.
        kind: The operator or layer type; empty where the backend does not tell.
        milliseconds: Mean time of one run, in ms.
        share: Of the sum over all layers, from 0 to 1.
    """

    name: str
    kind: str
    milliseconds: float
    share: float


def costs_by_share(times: dict[str, tuple[str, float]]) -> list[LayerCost]:
    """Layers by falling cost, from name -> (kind, ms)."""
    total = sum(milliseconds for _, milliseconds in times.values()) or 1.0
    costs = [LayerCost(name, kind, value, value / total) for name, (kind, value) in times.items()]
    return sorted(costs, key=lambda cost: -cost.milliseconds)


@dataclass(frozen=True)
class Availability:
    """What a backend can do on this machine.

    Attributes:
        version: Of the library, empty where it is not installed.
        no_build: Why no engine can be built here, with the way out; empty if one can.
        no_run: Why no engine can be run here, with the way out; empty if one can.
        doubt: Why running one may fail although nothing speaks against trying; empty without a doubt.
    """

    version: str = ''
    no_build: str = ''
    no_run: str = ''
    doubt: str = ''

    @property
    def can_build(self) -> bool:
        """Whether engines can be built here."""
        return not self.no_build

    @property
    def can_run(self) -> bool:
        """Whether engines can be run here."""
        return not self.no_run
