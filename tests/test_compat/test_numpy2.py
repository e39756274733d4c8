"""mmpretrain's retrieval metrics on today's numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import mmtrtvit  # noqa: F401  applies the mends
from mmtrtvit.compat.numpy2 import _NumpyWithIn1d

#: Three queries over six items, best first, and what is right for each.
RANKING = [[2, 0, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 2, 0, 3, 4, 5]]
RIGHT = [[0], [5, 3], [5]]


def test_retrieval_recall() -> None:
    """Query 2 is right at once, query 1 within two, query 3 only in all six."""
    from mmpretrain.evaluation import RetrievalRecall

    recalls = RetrievalRecall.calculate(RANKING, RIGHT, topk=(1, 2, 6), pred_indices=True, target_indices=True)
    assert [value.item() for value in recalls] == pytest.approx([100 / 3, 200 / 3, 100])


def test_retrieval_average_precision() -> None:
    """Mean over the hits of the precision at each: 1/2; 1 and 2/3; 1/6."""
    from mmpretrain.evaluation import RetrievalAveragePrecision

    value = RetrievalAveragePrecision.calculate(RANKING, RIGHT, topk=6, pred_indices=True, target_indices=True)
    assert float(value) == pytest.approx(100 * (1 / 2 + (1 + 2 / 3) / 2 + 1 / 6) / 3)


def test_in1d_as_it_was() -> None:
    found = _NumpyWithIn1d().in1d([[1, 2], [3, 4]], [2, 3, 9])
    assert found.tolist() == [False, True, True, False]


def test_numpy_is_not_touched_and_mmpretrain_not_imported() -> None:
    code = 'import sys, numpy, mmtrtvit; print(hasattr(numpy, "in1d"), "mmpretrain" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [str(hasattr(np, 'in1d')), 'False']


def test_mended_also_when_it_was_imported_first() -> None:
    code = (
        'import mmpretrain.evaluation.metrics.retrieval as r, mmtrtvit\n'
        'print(r.RetrievalRecall.calculate([[1, 0]], [[1]], 1, pred_indices=True, target_indices=True)[0].item())'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ['100.0'], done.stderr
