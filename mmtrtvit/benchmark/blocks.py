"""Blocks measured alone: latency, TeraFLOPS and TeraParams of each kind at each stage.

The formulas are those of TRT-ViT's metrics (arXiv 2205.09579) written out:

* ``TeraFLOPS = FLOPs x batch / latency``: how much computation a block gets through;
* ``TeraParams = parameters x batch / latency``: how many parameters it brings;

both in 1e12 per second, with a FLOP being a multiply-add of a convolution or matrix product, attention included.

The latency of one block is ``(t(D) - t(1)) / (D - 1)``, of engines that hold stacks of D blocks and of one: what
every engine pays once (launch, copies, the change of the memory's layout at both ends) drops out, which a mere
``t(D) / D`` would charge to the block. Both are measured in the same round, so that the difference is taken of
neighbours in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from mmtrtvit.benchmark.block_kinds import STRIDES, WIDTHS, find_kind, stack_of
from mmtrtvit.benchmark.probes import SKIPPED, Probe
from mmtrtvit.benchmark.results import Row

__all__ = ['block_probes', 'block_rounds', 'block_row', 'block_rows', 'find_row', 'per_second', 'stage_size']


def per_second(amount: float, batch: int, latency_ms: float) -> float:
    """An amount per image (FLOPs, parameters) in 1e12 per second of a call of ``batch`` images."""
    return amount * batch / (latency_ms / 1000) / 1e12


def stage_size(shape: tuple[int, int], stage: int) -> tuple[int, int]:
    """Height and width of a stage's feature map, as convolutions of stride 2 round them.

    Args:
        shape: Height and width of the image.
        stage: 0 to 3.
    """
    height, width = (-(-side // STRIDES[stage]) for side in shape)
    return height, width


def probe_name(kind: str, stage: int, depth: int) -> str:
    """Name of a stack's probe."""
    return f'{kind}, stage {stage + 1}, {depth} block{"s" if depth > 1 else ""}'


def block_probes(
    kinds: Sequence[str],
    stages: Sequence[int],
    shape: tuple[int, int],
    depth: int,
    widths: Sequence[int] = WIDTHS,
) -> list[Probe]:
    """The stacks to be measured: of each kind and stage one of ``depth`` blocks and one of a single block.

    Args:
        kinds: Of :data:`mmtrtvit.benchmark.block_kinds.KINDS`.
        stages: Out of 0 to 3.
        shape: Height and width of the image.
        depth: Blocks of the deep stack; with 1 there is no other.
        widths: Channels of the four stages.
    """
    probes = []
    for stage in dict.fromkeys(stages):
        height, width = stage_size(shape, stage)
        channels = widths[stage]
        for kind in {found.name: found for found in map(find_kind, kinds)}.values():
            for blocks in dict.fromkeys((depth, 1)):
                probes.append(
                    Probe(
                        name=probe_name(kind.name, stage, blocks),
                        model=kind.name,
                        part='block',
                        size=(channels, height, width),
                        make=partial(stack_of, kind.name, channels, stage, blocks),
                        scores=kind.scores(channels, stage, height * width),
                        extra={'stage': stage + 1, 'blocks': blocks, 'width': channels},
                    )
                )
    return probes


def block_rows(measured: Sequence[Row]) -> list[Row]:
    """One row for each kind and stage, of the rows of its two stacks; rows of other parts are left out."""
    deepest: dict[tuple[str, int], Row] = {}
    single: dict[tuple[str, int], Row] = {}
    for row in measured:
        if row.part != 'block':
            continue
        key = row.model, int(row.extra['stage'])
        if key not in deepest or row.extra['blocks'] > deepest[key].extra['blocks']:
            deepest[key] = row
        if row.extra['blocks'] == 1:
            single[key] = row
    return [block_row(row, single[key]) for key, row in deepest.items()]


def block_row(deep: Row, single: Row) -> Row:
    """The row of a block: that of the deep stack, with what one of its blocks costs.

    ``extra`` gets ``block_params``, ``block_gflops``, ``single_rounds_ms`` (the medians of the rounds of the stack of
    one), ``block_ms`` with ``block_p10_ms`` and ``block_p90_ms``, ``teraflops`` and ``teraparams``.
    """
    row = replace(deep, extra=dict(deep.extra))
    if deep is not single:
        row.error = deep.error or single.error
        row.noise = '; '.join(dict.fromkeys(note for note in (deep.noise, single.noise) if note))
        if single.extra.get(SKIPPED):
            row.extra[SKIPPED] = True
    if row.error or not (deep.rounds_ms and single.rounds_ms):
        return row
    others = row.extra['blocks'] - 1
    extra: dict[str, Any] = row.extra
    if deep is not single:
        extra['single_rounds_ms'] = list(single.rounds_ms)
        params, gflops = (deep.params or 0) - (single.params or 0), (deep.gflops or 0.0) - (single.gflops or 0.0)
        extra['block_params'], extra['block_gflops'] = params // others, gflops / others
    else:
        extra['block_params'], extra['block_gflops'] = row.params or 0, row.gflops or 0.0
    latency = block_rounds(row)
    middle, low, high = (float(value) for value in np.percentile(latency, (50, 10, 90)))
    extra |= {'block_ms': round(middle, 5), 'block_p10_ms': round(low, 5), 'block_p90_ms': round(high, 5)}
    if middle <= 0:
        noise = 'the stack of one was as slow as the deep one: no latency of a block comes out; take more --rounds'
        row.noise = '; '.join(note for note in (row.noise, noise) if note)
        return row
    batch = row.input_shape[0]
    extra['teraflops'] = per_second(extra['block_gflops'] * 1e9, batch, middle)
    extra['teraparams'] = per_second(extra['block_params'], batch, middle)
    return row


def block_rounds(row: Row) -> list[float]:
    """Latency of one block in each round, ms; see the head of this module."""
    single, blocks = row.extra.get('single_rounds_ms'), row.extra['blocks']
    if single is None:
        return [value / blocks for value in row.rounds_ms]
    return [(deep - one) / (blocks - 1) for deep, one in zip(row.rounds_ms, single, strict=False)]


def find_row(rows: Sequence[Row], kind: str, stage: int) -> Row | None:
    """The measured row of a kind at a stage (0 to 3); None where there is none or no latency came out."""
    for row in rows:
        if row.part == 'block' and row.model == kind and row.extra.get('stage') == stage + 1:
            return row if not row.error and row.extra.get('teraflops') else None
    return None


def typical_share(rows: Sequence[Row]) -> float | None:
    """Of all blocks, the median share of the deep stack's latency that is not in its blocks: what ``t / D`` charges."""
    shares = []
    for row in rows:
        block = row.extra.get('block_ms')
        if row.part == 'block' and block and row.latency:
            shares.append(1 - block * row.extra['blocks'] / row.latency.median_ms)
    return median(shares) if shares else None
