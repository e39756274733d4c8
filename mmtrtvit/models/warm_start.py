"""Loading a backbone from a checkpoint, ours or a ResNet-D's, with an account of every parameter.

Our stem and BottleNeck stages carry the names and shapes of mmpretrain's ``ResNetV1d``, so that its public ImageNet
weights fill them block by block: block *i* of a stage takes block *i* of theirs. A stage that is shorter here takes the
first blocks; one that is longer leaves its last blocks at their random start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

COUNTER = 'num_batches_tracked'  # BatchNorm's counter: copied where there is one, not worth a line in a report
DEPLOY_HINT = (
    'If one side is in the form for deployment (BatchNorm folded, projections of Transformer blocks as convolutions), '
    'build the model with deploy=True for a checkpoint saved after switch_to_deploy(), without it for any other'
)


class WarmStartError(ValueError):
    """A checkpoint that a backbone cannot begin with; the message says why."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the parameters and buffers of a checkpoint and of a model.

    Attributes:
        loaded: Names in the model that were filled.
        left: Names in the model that the checkpoint does not have.
        ignored: Names in the checkpoint that the model does not have.
    """

    loaded: tuple[str, ...]
    left: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        """List all names, one line for each block."""
        lines = []
        for title, names in (('loaded', self.loaded), ('left as they were', self.left), ('ignored', self.ignored)):
            lines.append(f'{title}: {len(names)}')
            blocks: dict[str, list[str]] = {}
            for name in names:
                parts = name.split('.')
                blocks.setdefault('.'.join(parts[:2]), []).append('.'.join(parts[2:]) or parts[-1])
            lines += [f'  {block}: {", ".join(inner)}' for block, inner in blocks.items()]
        return '\n'.join(lines)


def load_weights(model: nn.Module, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu') -> LoadReport:
    """Fill ``model`` from a checkpoint as far as names agree, and log which parameters were loaded, left and ignored.

    Args:
        model: The backbone.
        checkpoint: Path or URL, as mmengine's ``CheckpointLoader`` takes it.
        prefix: What precedes the backbone's names in the checkpoint, such as ``'backbone.'``. Default: ``backbone.`` if
            the checkpoint has it, else nothing.
        map_location: Where the tensors are loaded to first.

    Returns:
        The account.

    Raises:
        WarmStartError: If the checkpoint holds no weights, none that fit, or some of another shape. The model is
            unchanged.
    """
    source = _read_state_dict(checkpoint, map_location)
    source, outside = _strip_prefix(source, prefix, checkpoint)
    target = model.state_dict()
    shared = [name for name in target if name in source]
    _check(shared, source, target, checkpoint)
    model.load_state_dict({name: source[name] for name in shared}, strict=False)
    report = LoadReport(
        loaded=_without_counters(shared),
        left=_without_counters(name for name in target if name not in source),
        ignored=_without_counters([*(name for name in source if name not in target), *outside]),
    )
    print_log(f'{type(model).__name__} from {checkpoint}:\n{report}', logger='current')
    return report


def _without_counters(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not name.endswith(COUNTER))


def _read_state_dict(checkpoint: str, map_location: str) -> dict[str, torch.Tensor]:
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location=map_location, logger='current')
    if isinstance(content, Mapping) and 'state_dict' in content:
        content = content['state_dict']
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WarmStartError(f"{checkpoint}: neither a state dict nor a checkpoint with one under 'state_dict'")
    return {re.sub(r'^module\.', '', name): value for name, value in content.items()}


def _strip_prefix(
    source: dict[str, torch.Tensor], prefix: str | None, checkpoint: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Split into what is under the prefix, without it, and the names that are not."""
    if prefix is None:
        prefix = 'backbone.' if any(name.startswith('backbone.') for name in source) else ''
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    inside = {name[len(prefix) :]: value for name, value in source.items() if name.startswith(prefix)}
    if not inside:
        parts = sorted({name.split('.')[0] for name in source})
        raise WarmStartError(f'{checkpoint}: nothing in it begins with prefix={prefix!r}; it has {parts}')
    return inside, [name for name in source if not name.startswith(prefix)]


def _check(
    shared: list[str], source: dict[str, torch.Tensor], target: dict[str, torch.Tensor], checkpoint: str
) -> None:
    if not shared:
        raise WarmStartError(
            f'{checkpoint}: none of its {len(source)} parameters ({", ".join(list(source)[:3])}, ...) has a place in '
            f'this backbone ({", ".join(list(target)[:3])}, ...); if it is under another name, pass prefix'
        )
    for layer in dict.fromkeys(name.rpartition('.')[0] for name in shared):
        theirs, ours = _parameters_of(layer, source), _parameters_of(layer, target)
        if theirs != ours:
            raise WarmStartError(
                f'{checkpoint}: {layer} has {theirs} in the checkpoint and {ours} in the model, which would compute '
                f'something else. {DEPLOY_HINT}'
            )
    other_shape = [
        f'{name}: {tuple(source[name].shape)} in the checkpoint, {tuple(target[name].shape)} in the model'
        for name in shared
        if source[name].shape != target[name].shape
    ]
    if other_shape:
        more = f'\n  and {len(other_shape) - 10} more' if len(other_shape) > 10 else ''
        ranks_differ = any(source[name].ndim != target[name].ndim for name in shared)
        raise WarmStartError(
            f'{checkpoint}: parameters of another shape\n  '
            + '\n  '.join(other_shape[:10])
            + more
            + (f'\n{DEPLOY_HINT}' if ranks_differ else '')
        )


def _parameters_of(layer: str, state: Mapping[str, torch.Tensor]) -> list[str]:
    names = (name.rpartition('.') for name in state)
    return sorted(name for path, _, name in names if path == layer and name != COUNTER)
