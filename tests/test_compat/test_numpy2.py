"""Metrics of mmpretrain and mmdet on today's numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import mmtrtvit  # noqa: F401  applies the mends
from mmtrtvit.compat.numpy2 import array_of_rows, in1d

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
    found = in1d([[1, 2], [3, 4]], [2, 3, 9])
    assert found.tolist() == [False, True, True, False]


def test_arrays_as_they_were() -> None:
    assert array_of_rows([[1, 2], [3, 4]], dtype=np.int32).tolist() == [[1, 2], [3, 4]]
    rows = [np.zeros((2, 5)), np.ones((2, 6)), np.zeros((0, 3))]
    found = array_of_rows(rows)
    assert found.shape == (3,)
    assert all(one is other for one, other in zip(found, rows, strict=True))


def test_recall_of_proposals() -> None:
    """Two images with other numbers of objects and proposals: 1 of 3 objects is hit by the first, 2 by all."""
    from mmdet.evaluation.functional import eval_recalls

    objects = [np.array([[0, 0, 10, 10], [50, 50, 60, 60.0]]), np.array([[0, 0, 20, 20.0]])]
    proposals = [
        np.array([[0, 0, 10, 10, 0.9], [51, 51, 60, 60, 0.5], [90, 90, 99, 99, 0.1]]),
        np.array([[40, 40, 60, 60, 0.9]]),
    ]
    recalls = eval_recalls(objects, proposals, proposal_nums=[1, 3], iou_thrs=[0.5, 0.9])
    assert recalls.tolist() == [[pytest.approx(1 / 3)] * 2, [pytest.approx(2 / 3), pytest.approx(1 / 3)]]


def test_video_metric() -> None:
    """Of one video of one frame, the one object found: average precision 1."""
    from mmdet.evaluation.functional import YTVIS, YTVISeval
    from pycocotools import mask as masks

    mask = masks.encode(np.asfortranarray(np.eye(4, dtype=np.uint8)))
    video = {'id': 1, 'height': 4, 'width': 4, 'length': 1, 'file_names': ['a.png']}
    thing = {'id': 1, 'video_id': 1, 'category_id': 1, 'iscrowd': 0, 'segmentations': [mask], 'areas': [4],
             'bboxes': [[0, 0, 4, 4]]}  # fmt: skip
    truth = YTVIS({'videos': [video], 'categories': [{'id': 1, 'name': 'thing'}], 'annotations': [thing]})
    found = truth.loadRes([{'video_id': 1, 'category_id': 1, 'score': 0.9, 'segmentations': [mask]}])
    judge = YTVISeval(truth, found, 'segm')
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)


def test_numpy_is_not_touched_and_mmpretrain_not_imported() -> None:
    code = (
        'import sys, numpy, mmtrtvit\n'
        'print(hasattr(numpy, "in1d"), hasattr(numpy, "float"), "mmpretrain" in sys.modules, "mmdet" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-4:] == [str(hasattr(np, 'in1d')), 'False', 'False', 'False']


def test_mended_also_when_it_was_imported_first() -> None:
    code = (
        'import mmpretrain.evaluation.metrics.retrieval as r, mmtrtvit\n'
        'print(r.RetrievalRecall.calculate([[1, 0]], [[1]], 1, pred_indices=True, target_indices=True)[0].item())'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ['100.0'], done.stderr
