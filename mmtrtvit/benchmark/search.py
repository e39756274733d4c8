"""Depths of the four stages that bring the most under a latency budget, from measured blocks.

The model is additive: a backbone of depths ``d`` takes ``base + sum((d_s - 1) * block_s)``. ``base`` is measured in
one engine of depths 1, 1, 1, 1: the stem and the first block of each stage, whose stride and width differ from the
others' and of which every backbone has exactly one; measured together, the ends of an engine are not counted five
times. ``block_s`` is a block of stage s as :mod:`mmtrtvit.benchmark.blocks` measures it. How far the sum is off is
seen by building the proposal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmtrtvit.apis.errors import UserError

__all__ = ['MAX_DEPTHS', 'Costs', 'Proposal', 'best_depths']

#: Where the search ends: in each stage twice the depth of the deepest network of the paper's comparisons or more.
MAX_DEPTHS = (8, 12, 40, 24)
#: More combinations of the first three stages than this are not tried.
MAX_TRIED = 2_000_000


@dataclass(frozen=True)
class Costs:
    """What depths cost and bring.

    Attributes:
        base_ms: Of depths 1, 1, 1, 1.
        block_ms: One more block in each stage.
        base_value: Multiply-adds or parameters of depths 1, 1, 1, 1; whole numbers, so that equal sums are equal.
        block_value: Of one more block in each stage.
    """

    base_ms: float
    block_ms: tuple[float, float, float, float]
    base_value: int
    block_value: tuple[int, int, int, int]

    def latency(self, depths: Sequence[int]) -> float:
        """Predicted latency, ms."""
        return self.base_ms + sum((depth - 1) * cost for depth, cost in zip(depths, self.block_ms, strict=True))

    def value(self, depths: Sequence[int]) -> int:
        """Multiply-adds or parameters."""
        return self.base_value + sum((depth - 1) * one for depth, one in zip(depths, self.block_value, strict=True))


@dataclass(frozen=True)
class Proposal:
    """The best depths.

    Attributes:
        depths: Of the four stages.
        latency_ms: Predicted.
        value: Multiply-adds or parameters.
        tried: How many combinations were compared; the others cannot be better.
    """

    depths: tuple[int, int, int, int]
    latency_ms: float
    value: int
    tried: int


def best_depths(
    costs: Costs,
    budget_ms: float,
    min_depths: Sequence[int] = (1, 1, 1, 1),
    max_depths: Sequence[int] = MAX_DEPTHS,
) -> Proposal:
    """Find the depths of the highest value within a budget, exactly.

    Every combination of the first three stages is tried; the last stage then gets as many blocks as fit, for each
    brings something. Of equal values the faster one wins, then the one that is shallower earlier.

    Args:
        costs: From measurements.
        budget_ms: What the whole backbone may take.
        min_depths: At least 1 each.
        max_depths: At least ``min_depths`` each.

    Raises:
        UserError: The bounds are wrong, a measured cost is not positive, or not even the least depths fit.
    """
    low, high = tuple(min_depths), tuple(max_depths)
    if len(low) != 4 or len(high) != 4 or not all(1 <= few <= many for few, many in zip(low, high, strict=True)):
        raise UserError(
            f'depths from {low} to {high}: four each are needed, at least 1, the first not above the second'
        )
    if min(costs.block_ms) <= 0 or min(costs.block_value) <= 0:
        raise UserError(
            f'blocks of {", ".join(f"{cost:.4g}" for cost in costs.block_ms)} ms: not all are positive, the machine is '
            'too noisy for stacks of this size; take more --rounds or a larger --depth'
        )
    if not math.isfinite(budget_ms) or costs.latency(low) > budget_ms:
        least = ', '.join(map(str, low))
        raise UserError(
            f'--budget-ms {budget_ms:g}: depths {least} alone take {costs.latency(low):.4g} ms; give more time, a '
            'smaller --shape or narrower --channels'
        )
    ranges = [range(few, many + 1) for few, many in zip(low[:3], high[:3], strict=True)]
    if math.prod(map(len, ranges)) > MAX_TRIED:
        raise UserError(f'--max-depths {" ".join(map(str, high))}: too many combinations, take smaller ones')
    best: Proposal | None = None
    tried = 0
    for one, two, three in itertools.product(*ranges):
        early = (one, two, three)
        if costs.latency((*early, low[3])) > budget_ms:
            continue
        tried += 1
        depths = (one, two, three, _deepest(costs, early, low[3], high[3], budget_ms))
        found = Proposal(depths, costs.latency(depths), costs.value(depths), 0)
        if best is None or _rank(found) > _rank(best):
            best = found
    assert best is not None  # the least depths fit
    return Proposal(best.depths, best.latency_ms, best.value, tried)


def _deepest(costs: Costs, early: tuple[int, ...], low: int, high: int, budget_ms: float) -> int:
    """The most blocks of the last stage that fit behind given early ones; ``low`` are known to fit."""
    room = budget_ms - costs.latency((*early, 1))
    depth = min(high, max(low, 1 + int(room / costs.block_ms[3])))
    while depth < high and costs.latency((*early, depth + 1)) <= budget_ms:  # the division may be off by one
        depth += 1
    while depth > low and costs.latency((*early, depth)) > budget_ms:
        depth -= 1
    return depth


def _rank(found: Proposal) -> tuple[float, float, tuple[int, ...]]:
    return found.value, -found.latency_ms, tuple(-depth for depth in found.depths)
