"""Known numbers as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """A tensor ``(N,)`` of known numbers with the type and the device of ``like``.

    Unlike ``like.new_tensor(values)`` it is made on the device: nothing is copied from the host, which would have to
    wait for the device and which no CUDA graph can hold. In an exported graph it is one constant.
    """
    return torch.stack([like.new_full((), value) for value in values])
