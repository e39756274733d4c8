"""A head for other classes than the data set's is refused before the first iteration.

Too few raise an index error somewhere within the loss, or, with a sigmoid for each class, nothing at all: the labels
beyond are trained as background. mmdet's own ``NumClassCheckHook`` is in none of its configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmtrtvit.apis.errors import UserError

#: Heads that have a score for each class, by their place in the model of each library.
_HEADS = re.compile(r'((roi_head\.)?(bbox|mask)_head|decode_head|auxiliary_head|head)(\.\d+)?')


class CheckClassesHook(Hook):
    """Compare the number of classes of the heads with that of the data set.

    Detectors need the same number, since COCO's evaluation maps each; segmentors and classifiers at least as many.
    """

    def before_train(self, runner: Any) -> None:
        """Refuse a training whose labels a head does not have, or whose evaluation would fail after an epoch."""
        dataset = runner.train_loop.dataloader.dataset
        check_classes(runner.model, dataset)
        if runner.val_loop is not None:
            _check_topk(runner.val_loop.evaluator, dataset)

    def before_test(self, runner: Any) -> None:
        """Refuse a test whose labels mean something else."""
        check_classes(runner.model, runner.test_loop.dataloader.dataset)


def _check_topk(evaluator: Any, dataset: Any) -> None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    for metric in getattr(evaluator, 'metrics', ()):
        asked = getattr(metric, 'topk', None)
        if classes and isinstance(asked, (list, tuple)) and max(asked, default=0) > len(classes):
            raise UserError(
                f'val_evaluator.topk={tuple(asked)}: the data set has {len(classes)} classes: leave out what is more'
            )


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compare a model with a data set.

    Args:
        model: Of mmdet, mmseg or mmpretrain, wrapped or not.
        dataset: With ``metainfo``.

    Raises:
        UserError: Their classes do not fit; names the setting and both numbers.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(classes, str) or not classes:
        return
    model = getattr(model, 'module', model)
    exact = type(model).__module__.startswith('mmdet.') or hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')
    for name, number in _numbers(model):
        if number < len(classes) or (exact and number != len(classes)):
            some = ', '.join(str(one) for one in classes[:3])
            raise UserError(
                f'model.{name}.num_classes={number}, but the data set {type(dataset).__name__} has {len(classes)} '
                f'classes ({some}{", ..." if len(classes) > 3 else ""}): set both alike; those of the data are its '
                'metainfo.classes'
            )


def _numbers(model: nn.Module) -> Iterator[tuple[str, int]]:
    if hasattr(model, 'language_model'):  # its classes are texts
        return
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        if not _HEADS.fullmatch(name) or not isinstance(number, int) or isinstance(number, bool):
            continue
        # things and stuff are counted apart; a mask for all classes is of none
        if not hasattr(module, 'num_things_classes') and not getattr(module, 'class_agnostic', False):
            yield name, number
