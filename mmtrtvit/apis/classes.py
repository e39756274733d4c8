"""A head for other classes than the data set's is refused before the first iteration.

Too few raise an index error somewhere within the loss, or, with a sigmoid for each class, nothing at all: the labels
beyond are trained as background. mmdet's own ``NumClassCheckHook`` is in none of its configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmtrtvit.apis.errors import UserError
from mmtrtvit.apis.weights import innermost

#: Heads that have a score for each class, by their place in the model of each library. Auxiliary heads of mmseg may
#: do something else, such as finding edges.
_HEADS = re.compile(r'((roi_head\.)?(bbox|mask)_head|decode_head|head)(\.\d+)?')
#: Models whose heads have classes of their own: a proposal network one, a depth estimator a number, GLIP texts.
_OTHERS = ('RPN', 'DepthEstimator')
_OTHER_PARTS = ('language_model', 'semantic_head', 'panoptic_fusion_head')


class CheckClassesHook(Hook):
    """Compare the number of classes of the heads with that of the data set.

    Detectors need the same number, since COCO's evaluation maps each; segmentors and classifiers at least as many.
    """

    def before_train(self, runner: Any) -> None:
        """Refuse a training whose labels a head does not have, or whose evaluation would fail after an epoch."""
        check_classes(runner.model, runner.train_loop.dataloader.dataset)
        if runner.val_loop is not None:
            check_topk(runner.model, runner.val_loop.evaluator)

    def before_test(self, runner: Any) -> None:
        """Refuse a test whose labels mean something else."""
        check_classes(runner.model, runner.test_loop.dataloader.dataset)


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compare a model with a data set.

    Args:
        model: Of mmdet, mmseg or mmpretrain, wrapped or not.
        dataset: With ``metainfo``; one without names of classes is not compared.

    Raises:
        UserError: Their classes do not fit; names the setting and both numbers.
    """
    model = innermost(model)
    known = getattr(dataset, 'metainfo', None)  # a list where joined data sets differ
    classes = known.get('classes') if isinstance(known, Mapping) else None
    if isinstance(classes, str) or not classes or type(model).__name__ in _OTHERS:
        return
    if any(hasattr(model, part) for part in _OTHER_PARTS):
        return
    if hasattr(model, 'head') and getattr(dataset, 'ann_file', None):
        return  # mmpretrain compares the names with nothing where a file has the labels: they may be of another set
    exact = hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')
    for name, number in _numbers(model):
        if number < len(classes) or (exact and number != len(classes)):
            some = ', '.join(str(one) for one in classes[:3])
            raise UserError(
                f'model.{name}.num_classes={number}, but the data set {type(dataset).__name__} has {len(classes)} '
                f'classes ({some}{", ..." if len(classes) > 3 else ""}): set both alike; those of the data are its '
                'metainfo.classes'
            )


def check_topk(model: nn.Module, evaluator: Any) -> None:
    """Compare the accuracies that a classifier's evaluation asks for with its number of classes.

    Raises:
        UserError: A top-k of more than there are.
    """
    number = getattr(getattr(innermost(model), 'head', None), 'num_classes', None)
    for metric in getattr(evaluator, 'metrics', ()):
        asked = getattr(metric, 'topk', ())
        if type(metric).__name__ == 'Accuracy' and isinstance(number, int) and max(asked, default=0) > number:
            raise UserError(
                f'val_evaluator.topk={tuple(asked)}: the model has {number} classes: leave out what is more'
            )


def _numbers(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        if not _HEADS.fullmatch(name) or not isinstance(number, int) or isinstance(number, bool):
            continue
        # things and stuff are counted apart, a mask for all classes is of none, one channel tells two classes apart
        other = hasattr(module, 'num_things_classes') or getattr(module, 'class_agnostic', False)
        if not other and getattr(module, 'out_channels', None) != 1:
            yield name, number
