"""Decoding against mmdet's, the best k against a stable sort of everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.structures.bbox import distance2bbox

from mmtrtvit.deploy.ops import decode_deltas, decode_distances, gather_rows, top_k, top_k_classes


@pytest.mark.parametrize('shared', [True, False], ids=['one set of anchors', 'anchors for each image'])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'max_shape': (60, 80)},
        {'means': (0.1, -0.2, 0.0, 0.3), 'stds': (0.1, 0.1, 0.2, 0.2), 'max_shape': (60, 80)},
        {'wh_ratio_clip': 0.5},
        {'add_ctr_clamp': True, 'ctr_clamp': 3, 'wh_ratio_clip': 0.5},
    ],
)
def test_decode_deltas_is_mmdets(options: dict, shared: bool) -> None:
    torch.manual_seed(0)
    corner = torch.rand(2, 50, 2) * 80 - 10
    anchors = torch.cat((corner, corner + torch.rand(2, 50, 2) * 40), dim=-1)
    deltas = torch.randn(2, 50, 4) * 3
    boxes = decode_deltas(anchors[0] if shared else anchors, deltas, **options)
    for i in range(2):
        expected = delta2bbox(anchors[0 if shared else i], deltas[i], **options)
        torch.testing.assert_close(boxes[i], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize('max_shape', [None, (60, 80)])
def test_decode_distances_is_mmdets(max_shape: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    points, distances = torch.rand(50, 2) * 80, torch.rand(2, 50, 4) * 60
    boxes = decode_distances(points, distances, max_shape)
    for i in range(2):
        assert torch.equal(boxes[i], distance2bbox(points, distances[i].clone(), max_shape))


def test_coordinates_never_pass_through_half_precision() -> None:
    anchors = torch.tensor([[1000.25, 1000.25, 1100.75, 1100.75]])
    nothing = torch.zeros(1, 1, 4, dtype=torch.float16)
    assert decode_deltas(anchors, nothing).tolist() == [anchors.tolist()]
    assert decode_distances(anchors[:, :2], nothing).dtype == torch.float32
    assert decode_distances(anchors[:, :2], nothing).tolist() == [[[1000.25] * 4]]


@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=3), k=st.integers(1, 9)
)
def test_top_k_puts_ties_in_the_order_of_their_index(values: list[list[int]], k: int) -> None:
    best, index = top_k(torch.tensor(values, dtype=torch.float32), k)
    for row, row_values, row_index in zip(values, best.tolist(), index.tolist(), strict=True):
        expected = sorted(range(7), key=lambda i: (-row[i], i))[:k]
        assert row_index == expected
        assert row_values == [row[i] for i in expected]


@settings(deadline=None)
@given(
    batch=st.integers(1, 2),
    anchors=st.integers(1, 30),
    classes=st.integers(1, 5),
    k=st.integers(1, 40),
    levels=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_top_k_classes_is_a_stable_sort_of_all_pairs(
    batch: int, anchors: int, classes: int, k: int, levels: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (batch, anchors, classes), generator=random).float()  # many ties
    values, anchor, label = top_k_classes(scores, k)
    expected = torch.sort(scores.reshape(batch, -1), dim=1, descending=True, stable=True)
    k = min(k, anchors * classes)
    assert torch.equal(values, expected.values[:, :k])
    assert torch.equal(anchor * classes + label, expected.indices[:, :k])


@pytest.mark.parametrize('k', [0, -1, 3841])
def test_k_out_of_range(k: int) -> None:
    for function, values in ((top_k, torch.zeros(1, 5000)), (top_k_classes, torch.zeros(1, 5000, 2))):
        with pytest.raises(ValueError, match=rf'k={k} is not within 1 \.\. 3840.*nms_pre or pre_top_k'):
            function(values, k)


@pytest.mark.parametrize('tail', [(), (4,), (2, 3)])
def test_gather_rows(tail: tuple[int, ...]) -> None:
    x = torch.rand(3, 10, *tail)
    index = torch.randint(0, 10, (3, 6))
    picked = gather_rows(x, index)
    assert picked.shape == (3, 6, *tail)
    for i in range(3):
        assert torch.equal(picked[i], x[i][index[i]])
