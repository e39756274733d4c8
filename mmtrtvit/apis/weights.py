"""A checkpoint of another model is refused; mmengine only logs a page of keys and goes on with random weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from mmtrtvit.apis.errors import UserError

_SHOWN = 3


class CheckWeightsHook(Hook):
    """Compare names and shapes of a checkpoint with the model's before they are loaded.

    Args:
        filename: The checkpoint as the user wrote it.
        at_least: Share of the model's tensors, between 0 and 1, that the checkpoint must have.
    """

    priority = 'LOWEST'  # after EMAHook, which exchanges the weights in the checkpoint

    def __init__(self, filename: str, at_least: float) -> None:
        self.filename = filename
        self.at_least = at_least

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse or report.

        Raises:
            UserError: Too few tensors match; says how many and names some that do not.
        """
        model = innermost(runner.model)
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if _counts(name)}
        state = checkpoint.get('state_dict', checkpoint)
        # mmengine leaves the model's own values where there are arrays instead of tensors
        given = {
            re.sub(r'^module\.', '', str(name)): tuple(value.shape)
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        matched = [name for name, shape in wanted.items() if given.get(name) == shape]
        reshaped = [name for name, shape in wanted.items() if name in given and given[name] != shape]
        missing = [name for name in wanted if name not in given]
        unexpected = [name for name in given if name not in wanted and _counts(name)]
        if len(matched) == len(wanted) and not unexpected:
            return
        report = (
            f'{self.filename}: {len(matched)} of the {len(wanted)} tensors of this {type(model).__name__} are in it; '
            + '; '.join(filter(None, (
                _some('other shape', [f'{name} {given[name]} for {wanted[name]}' for name in reshaped]),
                _some('missing', missing),
                _some('not of this model', unexpected),
            )))
        )  # fmt: skip
        if not matched or len(matched) < self.at_least * len(wanted):
            raise UserError(f'{report}. It belongs to another model or config{_within(self.filename, checkpoint)}')
        print_log(report, logger='current', level=30)


def innermost(model: nn.Module) -> nn.Module:
    """The model without what runs it in several processes or on augmented images."""
    while isinstance(inner := getattr(model, 'module', None), nn.Module):
        model = inner
    return model


def _within(filename: str, checkpoint: dict[str, Any]) -> str:
    """What to do where the weights lie under another key than mmengine's ``state_dict``."""
    keys = [key for key, value in checkpoint.items() if isinstance(value, dict) and _are_weights(value)]
    if 'state_dict' in checkpoint or not keys:
        return ''
    return (
        f'; its weights are under {keys[0]!r}, where OpenMMLab wants state_dict: '
        f"torch.save({{'state_dict': torch.load({filename!r})[{keys[0]!r}]}}, 'weights.pth')"
    )


def _are_weights(values: dict[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, torch.Tensor) for value in values.values())


def _counts(name: str) -> bool:
    # mmengine's own loader leaves this counter out of its report too: old checkpoints do not have it
    return not name.endswith('num_batches_tracked')


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ''
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return f'{what}: {", ".join(names[:_SHOWN])}{more}'
