"""NMS in plain tensors against torchvision's: the same boxes, whatever the boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrtvit.deploy.ops import NMSOptions, greedy_keep, select_detections
from mmtrtvit.deploy.ops.nms import float32_at_most, suppression_matrix
from tests.test_deploy.test_ops.crowds import KINDS, chain, make_boxes, reference_detections, reference_keep

FORMS = ('static', 'loop', 'onnx')
# 1/3, 1/2 and 2/3 are met exactly by boxes of small integers
thresholds = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.6, 2 / 3, 0.7, 1.0]) | st.floats(0, 1)
crowds = st.tuples(st.sampled_from(KINDS), st.integers(1, 60), st.integers(0, 10**6))


@pytest.mark.parametrize('form', FORMS)
@settings(max_examples=80, deadline=None)
@given(images=st.lists(crowds, min_size=1, max_size=3), threshold=thresholds, groups=st.sampled_from([0, 1, 3]))
def test_keeps_what_torchvision_keeps(
    form: str, images: list[tuple[str, int, int]], threshold: float, groups: int
) -> None:
    count = max(size for _, size, _ in images)
    boxes = torch.stack([make_boxes(kind, count, seed) for kind, _, seed in images])
    random = torch.Generator().manual_seed(images[0][2])
    # the shorter images are padded with rows that are not valid, here and there another one is not
    valid = torch.stack([torch.arange(count) < size for _, size, _ in images])
    valid &= torch.rand(valid.shape, generator=random) > 0.1
    group = torch.randint(0, groups, valid.shape, generator=random) if groups else None

    keep, exact = greedy_keep(boxes, valid, threshold, group, NMSOptions(form=form, rounds=count + 1))

    assert exact.all()
    for i in range(len(images)):
        expected = reference_keep(boxes[i], valid[i], threshold, None if group is None else group[i])
        assert torch.equal(keep[i], expected)


@settings(max_examples=100, deadline=None)
@given(crowd=crowds, threshold=thresholds)
def test_every_pair_is_decided_as_torchvision_decides(crowd: tuple[str, int, int], threshold: float) -> None:
    kind, count, seed = crowd
    boxes = make_boxes(kind, min(count, 12), seed)
    matrix = suppression_matrix(boxes[None], threshold)[0]
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            kept = reference_keep(boxes[[i, j]], torch.ones(2, dtype=torch.bool), threshold)
            assert matrix[i, j] == (not kept[1])


def test_a_pair_at_the_threshold_stays() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 1], [1, 0, 3, 1]]])  # IoU 1 / 3
    valid = torch.ones(1, 2, dtype=torch.bool)
    third = float(np.float32(1) / np.float32(3))
    for form in FORMS:
        assert greedy_keep(boxes, valid, third, None, NMSOptions(form=form))[0].tolist() == [[True, True]]
        below = float(np.nextafter(np.float32(third), np.float32(0)))
        assert greedy_keep(boxes, valid, below, None, NMSOptions(form=form))[0].tolist() == [[True, False]]


@given(st.floats(0, 1))
def test_float32_at_most(value: float) -> None:
    result = float32_at_most(value)
    assert result == np.float32(result)
    assert result <= value < float(np.nextafter(np.float32(result), np.float32(2)))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('count', [1, 2, 7, 40])
def test_a_chain_keeps_every_second_box(form: str, count: int) -> None:
    valid = torch.ones(1, count, dtype=torch.bool)
    keep, exact = greedy_keep(chain(count)[None], valid, 0.5, None, NMSOptions(form=form, rounds=count + 1))
    assert exact.tolist() == [True]
    assert keep[0].nonzero()[:, 0].tolist() == list(range(0, count, 2))


def test_a_chain_longer_than_the_rounds_is_not_called_exact() -> None:
    boxes = torch.stack((chain(40), make_boxes('random', 40, 0) * torch.tensor([100.0, 1, 100, 1])))
    valid = torch.ones(2, 40, dtype=torch.bool)
    for rounds in range(2, 40):
        keep, exact = greedy_keep(boxes, valid, 0.5, None, NMSOptions(rounds=rounds))
        assert exact[0].item() is False
        # what is settled by then is right: one more box a round
        assert keep[0, :rounds].tolist() == [i % 2 == 0 for i in range(rounds)]
    assert greedy_keep(boxes, valid, 0.5, None, NMSOptions(rounds=41))[1].tolist() == [True, True]
    assert greedy_keep(boxes, valid, 0.5, None, NMSOptions(form='loop'))[1].tolist() == [True, True]


def test_levels_as_a_batch() -> None:
    levels = torch.stack([make_boxes('random', 50, seed) for seed in range(4)])
    valid = torch.ones(4, 50, dtype=torch.bool)
    keep, _ = greedy_keep(levels, valid, 0.5)
    one = levels.reshape(1, 200, 4)
    group = torch.arange(4).repeat_interleave(50)[None]
    for form in FORMS:
        for groups in (4, None):
            options = NMSOptions(form=form)
            assert torch.equal(
                greedy_keep(one, valid.reshape(1, 200), 0.5, group, options, groups)[0], keep.reshape(1, 200)
            )


def test_groups_may_be_any_integers() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9]] * 4])
    valid = torch.ones(1, 4, dtype=torch.bool)
    group = torch.tensor([[1202, -5, 1202, 7]])
    for form in FORMS:
        keep, _ = greedy_keep(boxes, valid, 0.5, group, NMSOptions(form=form))
        assert keep.tolist() == [[True, True, False, True]]


@settings(max_examples=200, deadline=None)
@given(
    crowd=crowds,
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    form=st.sampled_from(FORMS),
    rounds=st.integers(2, 8),
    pre_top_k=st.integers(1, 70),
    max_dets=st.integers(1, 70),
    agnostic=st.booleans(),
    tied=st.booleans(),
    score_threshold=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_what_is_called_exact_is_greedy_nms_of_all_candidates(
    crowd: tuple[str, int, int],
    threshold: float,
    form: str,
    rounds: int,
    pre_top_k: int,
    max_dets: int,
    agnostic: bool,
    tied: bool,
    score_threshold: float,
) -> None:
    kind, count, seed = crowd
    random = torch.Generator().manual_seed(seed)
    boxes = torch.stack((make_boxes(kind, count, seed), make_boxes('mixed', count, seed + 1)))
    scores = torch.rand(2, count, generator=random)
    scores = (scores * 4).round() / 4 if tied else scores
    labels = torch.randint(0, 3, (2, count), generator=random)
    found = select_detections(
        boxes,
        scores,
        labels,
        score_threshold=score_threshold,
        iou_threshold=threshold,
        max_dets=max_dets,
        class_agnostic=agnostic,
        options=NMSOptions(form=form, pre_top_k=pre_top_k, rounds=rounds),
        num_classes=3,
    )
    assert found.boxes.shape == (2, max_dets, 4)
    for i in range(2):
        expected = reference_detections(boxes[i], scores[i], labels[i], score_threshold, threshold, agnostic, max_dets)
        number = int(found.num_dets[i])
        assert (found.labels[i, number:] == -1).all()
        for padded in (found.boxes, found.scores, found.index):
            assert (padded[i, number:] == 0).all()
        index = found.index[i, :number]
        assert torch.equal(found.boxes[i, :number], boxes[i, index])
        assert torch.equal(found.scores[i, :number], scores[i, index])
        assert torch.equal(found.labels[i, :number], labels[i, index])
        if found.exact[i]:
            assert index.tolist() == expected.tolist()
        if form != 'static' and pre_top_k >= count:
            assert found.exact[i]


def test_exact_when_the_best_k_did_not_hold_all_candidates() -> None:
    """Ten boxes far apart, all above the threshold: five of the best seven are five of all."""
    boxes = torch.arange(10.0)[None, :, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.linspace(0.9, 0.5, 10)[None]
    labels = torch.zeros(1, 10, dtype=torch.int64)

    def exact(k: int, max_dets: int, score_threshold: float) -> bool:
        options = NMSOptions(pre_top_k=k)
        found = select_detections(
            boxes,
            scores,
            labels,
            score_threshold=score_threshold,
            iou_threshold=0.5,
            max_dets=max_dets,
            options=options,
        )
        return bool(found.exact)

    assert exact(7, 5, 0.1)
    assert exact(7, 7, 0.1)
    assert not exact(7, 8, 0.1)
    assert exact(7, 8, 0.7)  # six candidates
    assert exact(10, 100, 0.1)


def test_exact_when_the_detections_before_the_open_end_of_a_chain_suffice() -> None:
    count = 40
    boxes, labels = chain(count)[None], torch.zeros(1, count, dtype=torch.int64)
    scores = torch.linspace(0.9, 0.5, count)[None]
    for max_dets, expected in ((4, True), (9, False)):
        found = select_detections(
            boxes,
            scores,
            labels,
            score_threshold=0.1,
            iou_threshold=0.5,
            max_dets=max_dets,
            options=NMSOptions(rounds=8),
        )
        assert found.exact.tolist() == [expected]
    assert found.index[0, :4].tolist() == [0, 2, 4, 6]


def test_size_and_score_thresholds_are_strict() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 9], [20, 0, 25, 9], [40, 0, 45, 4], [60, 0, 65, 9]]])
    found = select_detections(
        boxes,
        torch.tensor([[0.9, 0.5, 0.8, 0.7]]),
        torch.zeros(1, 4, dtype=torch.int64),
        score_threshold=0.5,
        iou_threshold=0.5,
        max_dets=3,
        min_size=4.0,
    )
    assert found.index.tolist() == [[3, 0, 0]]
    assert found.labels.tolist() == [[0, -1, -1]]
    assert found.num_dets.tolist() == [1]


def test_half_precision_boxes_are_compared_in_float32() -> None:
    boxes = make_boxes('random', 60, 3).half()[None]
    valid = torch.ones(1, 60, dtype=torch.bool)
    assert torch.equal(greedy_keep(boxes, valid, 0.5)[0][0], reference_keep(boxes[0].float(), valid[0], 0.5))


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ({'form': 'cuda'}, "form='cuda' is not one of static, loop, onnx"),
        ({'pre_top_k': 3841}, r'k=3841 is not within 1 \.\. 3840'),
        ({'pre_top_k': 0}, r'k=0 is not within 1 \.\. 3840'),
        ({'rounds': 1}, 'rounds=1; two at least'),
    ],
)
def test_options_out_of_range(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        NMSOptions(**arguments)


def test_threshold_out_of_range() -> None:
    with pytest.raises(ValueError, match=r'iou_threshold=50 is not within 0 \.\. 1'):
        greedy_keep(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), 50)
