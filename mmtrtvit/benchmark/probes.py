"""Modules that are no model of a config, such as a stack of blocks, to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from mmtrtvit.benchmark.results import Row
from mmtrtvit.benchmark.run import Entry
from mmtrtvit.benchmark.subjects import MODULE_BACKENDS, Setting, Step, Subject, deploy_config, make_subject
from mmtrtvit.deploy.config import DeployConfig
from mmtrtvit.deploy.graphs import GraphOptions
from mmtrtvit.deploy.graphs.base import DeployGraph
from mmtrtvit.errors import UserError

__all__ = ['SKIPPED', 'Probe', 'ProbeGraph', 'prepare']

#: Key of ``Row.extra`` of a row that was left out on purpose: its error is no failure of the run.
SKIPPED = 'skipped'
#: How many times its weights a module needs while it becomes an engine: itself, the graph, the file, the engine.
COPIES = 4
#: Share of the free memory that one attention matrix and its softmax may take on a CPU.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Probe:
    """A module to be measured.

    Attributes:
        name: Unique in its run.
        model: As ``Row.model``.
        part: ``block`` or ``backbone``.
        size: Of its input without the batch, ``(C, H, W)``.
        make: Builds it, in eval mode; raises UserError where that does not go.
        scores: Entries of its largest attention matrix, of one image.
        extra: As ``Row.extra``.
    """

    name: str
    model: str
    part: str
    size: tuple[int, int, int]
    make: Callable[[], nn.Module]
    scores: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def row(self, setting: Setting) -> Row:
        """Its row before anything is measured."""
        what = {
            'block': 'from the feature map before a stack of blocks to the one behind it',
            'backbone': 'from the normalised image to the last feature map',
        }[self.part]
        where = 'in the memory of the host' if setting.device == 'cpu' else 'on the GPU, nothing copied'
        return setting.new_row(
            model=self.model,
            config='',
            backbone='',
            task='block' if self.part == 'block' else 'classification',
            part=self.part,
            input_shape=[setting.batch, *self.size],
            inside=f'{what}; input and output {where}',
            extra=dict(self.extra),
        )

    def entry(self, setting: Setting) -> Entry:
        """Itself as what a run measures."""
        row = self.row(setting)
        return Entry(self.name, row, partial(prepare, self, setting, row))


class ProbeGraph(DeployGraph):
    """Any module with one feature map in and one out, as the exporter and the backends take it.

    Args:
        module: Maps ``(B, C, H, W)`` to a tensor, or to a sequence whose last entry is meant.
        size: ``(C, H, W)``.
        batch: B.
    """

    task = 'features'
    output_names = ('feature',)

    def __init__(self, module: nn.Module, size: tuple[int, int, int], batch: int) -> None:
        super().__init__(SimpleNamespace(data_preprocessor=None), GraphOptions(size[1], size[2], batch))
        self.backbone = module
        self.channels = size[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(B, C, H, W)``."""
        return self.options.batch_size, self.channels, *self.options.shape

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the map, alone in a tuple."""
        out = self.backbone(image)
        return (out if isinstance(out, Tensor) else out[-1],)


@cache
def options_of(setting: Setting) -> DeployConfig:
    """How the backend builds and loads a plain static graph: what comes along for classifiers."""
    return deploy_config('classification', setting)


def prepare(probe: Probe, setting: Setting, row: Row, folder: Path, progress: Step = lambda step: None) -> Subject:
    """Build, export and load; fills the row as far as it gets.

    Raises:
        UserError: The module, the precision or the backend does not go here, or there is too little memory.
    """

    def make_graph() -> DeployGraph:
        _check_scores(probe, setting, row)
        module = probe.make()
        row.params = sum(parameter.numel() for parameter in module.parameters())
        _check_weights(row)
        return ProbeGraph(module, probe.size, setting.batch).eval()  # as deployed: no stochastic depth

    subject = make_subject(make_graph, setting, options_of(setting), row, folder, progress)
    for file in folder.iterdir():  # loaded, and nobody asks for its costs; a run may have a hundred of them
        file.unlink()
    return subject


def _check_scores(probe: Probe, setting: Setting, row: Row) -> None:
    """Refuse what a CPU's memory cannot hold; a GPU's builder says so itself, and may never write the matrix out."""
    free = free_memory()
    # PyTorch's attention on the CPU keeps no matrix; the exported one keeps the scores and their softmax
    needed = 2 * 4 * probe.scores * setting.batch
    if setting.backend in MODULE_BACKENDS or setting.device != 'cpu' or free is None or needed <= MEMORY_SHARE * free:
        return
    row.extra[SKIPPED] = True
    raise UserError(
        f'left out: its attention over {probe.size[1]}x{probe.size[2]} or more tokens needs {needed / 2**30:.1f} GiB, '
        f'{free / 2**30:.1f} GiB of memory are free: take a smaller --shape'
    )


def _check_weights(row: Row) -> None:
    free = free_memory()
    needed = COPIES * 4 * (row.params or 0)
    if free is None or needed <= free:
        return
    row.extra[SKIPPED] = True
    raise UserError(
        f'left out: to build it needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free: '
        'take fewer --kinds or --stages, or a smaller --depth'
    )


def free_memory() -> float | None:
    """Memory that programs can still have, bytes; None where Linux is not."""
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')), None)
