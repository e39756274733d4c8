"""PyTorch behind the same interface, as the reference: eager, ``torch.compile`` and CUDA graphs.

There is no engine file: the module itself is wrapped.

Example:
    >>> runner = get_backend('pytorch').wrap(module, {'image': image}, ('scores',))
    >>> runner({'image': image})['scores']
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mmtrtvit.deploy.backends.base import Backend, Built, Runner, find_device
from mmtrtvit.deploy.backends.graph import GraphFacts
from mmtrtvit.deploy.backends.options import BuildOptions, BuildReport, LoadOptions
from mmtrtvit.deploy.backends.types import (
    Availability,
    BackendError,
    LayerCost,
    Progress,
    TensorSpec,
    costs_by_share,
    spec_of,
)

__all__ = ['CudaGraphBackend', 'PyTorchBackend', 'PyTorchRunner', 'TorchCompileBackend']

MODES = ('eager', 'compile', 'cudagraph')
_NO_GPU = "CUDA graphs need an NVIDIA GPU, and PyTorch sees none here: use backend 'pytorch' or 'torch-compile'"


class PyTorchRunner(Runner):
    """A module as a runner.

    Args:
        module: Takes the inputs in the order of ``inputs`` and returns a tensor, a sequence or a dict of tensors.
        inputs: What it takes.
        output_names: Names of what it gives, in its order; of a dict, the keys to give.
        mode: ``eager``, ``compile`` or ``cudagraph``.
        device: Where to run; the module is moved there and put into evaluation mode.
        check_finite: Refuse NaN and infinity in floating inputs.

    Raises:
        BackendError: The mode is unknown or needs a GPU that is not there; at the first call also: the number of
            outputs is not that of ``output_names``.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[TensorSpec],
        output_names: Sequence[str],
        mode: str = 'eager',
        device: str | torch.device = 'cpu',
        check_finite: bool = True,
    ) -> None:
        if mode not in MODES:
            raise BackendError(f'mode={mode!r}: must be one of {", ".join(map(repr, MODES))}')
        if mode == 'cudagraph' and not torch.cuda.is_available():
            raise BackendError(f'mode={mode!r}: {_NO_GPU}')
        target = find_device(device)
        if mode == 'cudagraph' and target.type != 'cuda':
            raise BackendError(f"mode='cudagraph', device={str(device)!r}: CUDA graphs run on device='cuda' only")
        dynamic = [spec for spec in inputs if spec.dynamic]
        if mode == 'cudagraph' and dynamic:
            raise BackendError(f"mode='cudagraph' needs static shapes, but there is {dynamic[0]}")
        super().__init__(tuple(inputs), (), target, check_finite)
        self._module = module.to(target).eval()
        self._mode, self._names = mode, tuple(output_names)
        self._call: Callable[..., Any] = _compiled(self._module) if mode == 'compile' else self._module
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: dict[str, torch.Tensor] = {}

    def _run(self, feed: dict[str, torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            outputs = self._replay(feed) if self._mode == 'cudagraph' else self._forward(feed)
        if not self.outputs:
            self.outputs = tuple(spec_of(name, tensor) for name, tensor in outputs.items())
        return outputs

    def _forward(self, feed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        results = self._call(*(feed[spec.name] for spec in self.inputs))
        if isinstance(results, Mapping):
            missing = [name for name in self._names if name not in results]
            if missing:
                raise BackendError(f'the module gives {", ".join(map(str, results))}, but not {missing[0]!r}')
            return {name: results[name] for name in self._names}
        found = [results] if isinstance(results, torch.Tensor) else list(results)
        if len(found) != len(self._names):
            raise BackendError(f'the module gives {len(found)} outputs, but {len(self._names)} names: {self._names}')
        return dict(zip(self._names, found, strict=True))

    def _replay(self, feed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy in, replay, copy out. Written against PyTorch's documentation; not run on hardware by the authors."""
        if self._graph is None:
            self._record(feed)
        assert self._graph is not None
        for name, tensor in feed.items():
            self._static[name].copy_(tensor)
        self._graph.replay()
        return {name: self._static[f'output:{name}'].clone() for name in self._names}

    def _record(self, feed: dict[str, torch.Tensor]) -> None:
        static = {name: tensor.clone() for name, tensor in feed.items()}
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):  # cuDNN and cuBLAS choose and allocate at the first runs, which a capture must not
                self._forward(static)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # torch's own stream for captures is of the device that was current at the first one
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=side):
            outputs = self._forward(static)
        self._static = static | {f'output:{name}': tensor for name, tensor in outputs.items()}
        self._graph = graph

    def profile(self, feed: Mapping[str, torch.Tensor], runs: int = 10) -> list[LayerCost]:
        """Modules without children by their own time, eagerly; each one is waited for, so it is slower."""
        checked, _ = self._checked(feed)
        spent: dict[str, tuple[str, float]] = {}
        began: dict[str, float] = {}

        def begin(name: str) -> None:
            began[name] = self._now()

        def end(name: str, kind: str) -> None:
            before = spent.get(name, ('', 0.0))[1]
            spent[name] = (kind, before + (self._now() - began[name]) * 1000 / runs)

        handles = []
        for name, part in self._module.named_modules():
            if next(part.children(), None) is None:
                kind = type(part).__name__
                handles.append(part.register_forward_pre_hook(lambda *_, name=name: begin(name)))
                handles.append(part.register_forward_hook(lambda *_, name=name, kind=kind: end(name, kind)))
        try:
            with torch.inference_mode():
                for run in range(runs + 1):
                    self._module(*(checked[spec.name] for spec in self.inputs))
                    if run == 0:
                        spent.clear()
        finally:
            for handle in handles:
                handle.remove()
        return costs_by_share(spent)

    def _now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def close(self) -> None:
        """Drop the module and what was recorded."""
        super().close()
        self._graph, self._static = None, {}
        self._call = self._module = nn.Identity()


def _compiled(module: nn.Module) -> Callable[..., Any]:
    """The module under ``torch.compile``, which counts recompilations by the code of ``forward``.

    All models that are measured beside each other have one ``forward``: after eight of them PyTorch would go on
    without compiling and say so in a log only. With the limit out of the way, what cannot be compiled is an error.
    """
    config = torch._dynamo.config
    config.recompile_limit = config.accumulated_recompile_limit = 1 << 16
    config.fail_on_recompile_limit_hit = True
    return torch.compile(module)


class PyTorchBackend(Backend):
    """Eager PyTorch: the reference. It has no engine file; see :meth:`wrap`."""

    name = 'pytorch'
    engine_suffix = ''
    mode: ClassVar[str] = 'eager'

    def availability(self) -> Availability:
        """Modules are run, not built."""
        return Availability(torch.__version__, f'{self.name} has no engine file: wrap the module (Backend.wrap)')

    def wrap(
        self,
        module: nn.Module,
        inputs: Sequence[TensorSpec] | Mapping[str, torch.Tensor],
        output_names: Sequence[str],
        device: str | torch.device = 'cpu',
        options: LoadOptions | None = None,
    ) -> PyTorchRunner:
        """Make a runner of a module.

        Args:
            module: See :class:`PyTorchRunner`.
            inputs: What it takes; or an example by name, whose types and shapes it then takes.
            output_names: Names of what it gives.
            device: Where to run.
            options: How; None for the defaults.
        """
        options = options or LoadOptions()
        self._refuse_unknown(options, self.load_fields)
        specs = [spec_of(name, tensor) for name, tensor in inputs.items()] if isinstance(inputs, Mapping) else inputs
        return PyTorchRunner(module, tuple(specs), output_names, self.mode, device, options.check_finite)

    def build(
        self,
        onnx: str | os.PathLike[str],
        engine: str | os.PathLike[str],
        options: BuildOptions | None = None,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Refused: there is no engine file."""
        raise BackendError(f'{engine}: {self.availability().no_build}')

    def load(
        self,
        engine: str | os.PathLike[str],
        device: str | torch.device = 'cpu',
        *,
        require_card: bool = True,
        options: LoadOptions | None = None,
    ) -> Runner:
        """Refused: there is no engine file."""
        raise BackendError(f'{engine}: {self.availability().no_build}')

    def _build(
        self,
        onnx: Path,
        partial: Path,
        engine: Path,
        facts: GraphFacts,
        options: BuildOptions,
        progress: Progress | None,
    ) -> Built:
        raise NotImplementedError

    def _load(self, engine: Path, device: torch.device, options: LoadOptions) -> Runner:
        raise NotImplementedError


class TorchCompileBackend(PyTorchBackend):
    """``torch.compile`` with its default inductor; the first call compiles."""

    name = 'torch-compile'
    mode = 'compile'


class CudaGraphBackend(PyTorchBackend):
    """Eager PyTorch recorded as one CUDA graph. Not run on hardware by the authors."""

    name = 'cudagraph'
    mode = 'cudagraph'

    def availability(self) -> Availability:
        """A GPU is needed."""
        plain = super().availability()
        return Availability(plain.version, plain.no_build, '' if torch.cuda.is_available() else _NO_GPU)
