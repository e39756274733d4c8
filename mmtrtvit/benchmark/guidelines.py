"""The four guidelines of TRT-ViT (arXiv 2205.09579) put to the test of speed on this machine.

The paper's exact networks are not public: depths and widths below are ours. What its guidelines say of accuracy
cannot be seen in a latency; every verdict says what was tested and what was not.

A verdict comes from ratios taken within rounds: a check holds when the 95 % confidence interval of their median lies
above its threshold, does not when it lies below, and is unclear otherwise. More rounds make the interval narrower, not
the spread of the rounds. A guideline holds when all of its checks hold, does not when none does, and is unclear
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import quantile_test
from torch import nn

from mmtrtvit.benchmark.block_kinds import OWN_KINDS, WIDTHS, find_kind
from mmtrtvit.benchmark.blocks import block_rounds, find_row, stage_size
from mmtrtvit.benchmark.probes import Probe
from mmtrtvit.benchmark.results import Row
from mmtrtvit.models import TRTViT

__all__ = ['NETWORKS', 'Check', 'Guideline', 'Network', 'Verdict', 'guidelines', 'network_probes', 'verdict_of']

Verdict = str
HOLDS, FAILS, UNCLEAR = 'holds', 'does not', 'unclear'
#: Of the interval that decides. Order statistics give one of 95 % from six rounds on.
CONFIDENCE = 0.95
#: Depths of ResNet-50 (arXiv 1512.03385, table 1) and of PVT-Small (arXiv 2102.12122, table 1).
USUAL_DEPTHS = (3, 4, 6, 3)
#: Speed that global-then-local may lose against local-then-global, for it is to win accuracy.
EQUAL = 0.95


@dataclass(frozen=True)
class Network:
    """A backbone of the experiments.

    Attributes:
        name: As ``Row.model`` has it.
        depths: Blocks of the four stages.
        blocks: Kind of the blocks of each stage; empty for PVT.
        channels: Widths of the four stages; empty for PVT-Small's.
    """

    name: str
    depths: tuple[int, int, int, int]
    blocks: tuple[str, ...] = ()
    channels: tuple[int, ...] = WIDTHS

    def arch(self) -> dict[str, Any]:
        """Its settings, those of :class:`mmtrtvit.models.TRTViT` where it is one."""
        if not self.blocks:
            return {'type': 'mmdet.PyramidVisionTransformer', 'num_layers': list(self.depths)}
        return {'channels': list(self.channels), 'depths': list(self.depths), 'blocks': list(self.blocks)}

    def build(self) -> nn.Module:
        """The backbone as it is deployed, returning its last map; random weights."""
        if self.blocks:
            return TRTViT(self.arch()).switch_to_deploy()
        from mmdet.models.backbones.pvt import PyramidVisionTransformer

        return PyramidVisionTransformer(num_layers=list(self.depths), out_indices=(3,))

    def scores(self, shape: tuple[int, int]) -> float:
        """Entries of its largest attention matrix, of one image."""
        sizes = [stage_size(shape, stage) for stage in range(4)]
        return max(
            (
                find_kind(kind).scores(width, stage, sizes[stage][0] * sizes[stage][1])
                for stage, (kind, width) in enumerate(zip(self.blocks, self.channels, strict=False))
            ),
            default=0.0,
        )


def _replaced(name: str, count: int) -> Network:
    """ResNet at TRT-ViT-C's widths with Transformer blocks in its last ``count`` stages."""
    return Network(name, USUAL_DEPTHS, ('BottleNeck',) * (4 - count) + ('Transformer',) * count)


_RESNET_WIDTHS = (256, 512, 1024, 2048)
_CONV, _MIXNET = ('BottleNeck',) * 4, ('BottleNeck',) * 3 + ('Transformer',)
#: Guideline 1: Transformer blocks from the late stages on; the last is ViT-like.
BY_STAGE = (
    _replaced('ResNet', 0),
    _replaced('MixNetV', 1),
    _replaced('MixNetV, stages 3-4', 2),
    _replaced('MixNetV, stages 2-4', 3),
    _replaced('ViT-like', 4),
)
#: Guideline 2: a network and the same with shallow early and deep late stages, at equal GFLOPs (within 3 % at 224 to
#: 512 pixels).
REDEPTHED = (
    (Network('ResNet-50', USUAL_DEPTHS, _CONV, _RESNET_WIDTHS),
     Network('ResNet-50 re-depthed', (2, 2, 6, 6), _CONV, _RESNET_WIDTHS)),
    (Network('PVT-Small', USUAL_DEPTHS), Network('PVT-Small re-depthed', (2, 2, 6, 8))),
    (_replaced('MixNetV', 1), Network('MixNetV re-depthed', (2, 2, 4, 4), _MIXNET)),
)  # fmt: skip
#: All of them, each once.
NETWORKS: tuple[Network, ...] = tuple(dict.fromkeys([*BY_STAGE, *(network for pair in REDEPTHED for network in pair)]))


def network_probes(shape: tuple[int, int]) -> list[Probe]:
    """The backbones to be measured."""
    return [
        Probe(network.name, network.name, 'backbone', (3, *shape), network.build, network.scores(shape), network.arch())
        for network in NETWORKS
    ]


@dataclass(frozen=True)
class Check:
    """One ratio that a guideline says something of.

    Attributes:
        text: What is divided by what.
        ratios: Of each round; NaN where a round gave none, which counts for nothing.
        threshold: What it must lie above.
    """

    text: str
    ratios: Sequence[float]
    threshold: float = 1.0

    @property
    def measured(self) -> list[float]:
        """The ratios that there are."""
        return [ratio for ratio in self.ratios if not math.isnan(ratio)]

    @property
    def numbers(self) -> tuple[float, float, float]:
        """10th percentile, median and 90th percentile."""
        low, middle, high = (float(value) for value in np.percentile(self.measured, (10, 50, 90)))
        return low, middle, high

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of the median, from the binomial test of order statistics; NaN with too few rounds.

        It takes the rounds for independent of one another, whatever their distribution.
        """
        found = quantile_test(self.measured, p=0.5).confidence_interval(CONFIDENCE)
        return float(found.low), float(found.high)

    @property
    def verdict(self) -> Verdict:
        """``holds``, ``does not`` or ``unclear``."""
        low, high = self.interval
        return HOLDS if low > self.threshold else FAILS if high < self.threshold else UNCLEAR


@dataclass(frozen=True)
class Guideline:
    """One guideline with what this machine says of it.

    Attributes:
        number: 1 to 4.
        text: What it says.
        tested: What was compared.
        untested: What it also says and speed does not show; '' for nothing.
        checks: What the verdict is made of.
        beside: Ratios worth knowing that decide nothing.
        missing: What was not measured and why.
    """

    number: int
    text: str
    tested: str
    untested: str
    checks: list[Check] = field(default_factory=list)
    beside: list[Check] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """``holds`` when all checks do, ``does not`` when none does, else ``unclear``."""
        return verdict_of([check.verdict for check in self.checks])


def verdict_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Join the verdicts of checks."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else UNCLEAR


def guidelines(rows: Sequence[Row]) -> list[Guideline]:
    """Judge the guidelines by the rows of one run."""
    return [_late_transformers(rows), _deep_late_stages(rows), _mixed_blocks(rows), _global_first(rows)]


def _late_transformers(rows: Sequence[Row]) -> Guideline:
    found = Guideline(
        1,
        'Transformer blocks belong in late stages',
        'TeraFLOPS of a Transformer block over those of a BottleNeck at each stage: whether the gap is smallest in '
        'stage 4. TeraFLOPS of MixNetV (Transformer blocks in stage 4 only) over those of the ViT-like network '
        '(in all stages)',
        'that MixNetV is as accurate as the ViT-like network',
    )
    gaps = {}
    for stage in range(4):
        gap = _block_ratio(rows, 'Transformer', 'BottleNeck', stage, 'block_gflops')
        if gap is None:
            found.missing.append(_why_block(rows, ('Transformer', 'BottleNeck'), stage))
            continue
        gaps[stage] = gap
        found.beside.append(Check(f'TeraFLOPS of Transformer / BottleNeck, stage {stage + 1}', gap))
    for stage, gap in gaps.items():
        if 3 in gaps and stage < 3:
            ratios = [late / early for late, early in zip(gaps[3], gap, strict=False)]
            found.checks.append(Check(f'TeraFLOPS of Transformer / BottleNeck: stage 4 over stage {stage + 1}', ratios))
    plain = _network(rows, 'ResNet')
    for network in BY_STAGE[1:]:
        row = _network(rows, network.name)
        if row is None or plain is None:
            found.missing.append(_why_network(rows, network.name if plain is not None else 'ResNet'))
            continue
        found.beside.append(Check(f'TeraFLOPS of {network.name} / ResNet', _efficiency(row, plain, 'gflops')))
    mixed = _network(rows, 'MixNetV')
    # the one with the most stages of Transformer blocks that was measured
    everywhere = next((row for n in BY_STAGE[:1:-1] if (row := _network(rows, n.name)) is not None), None)
    if mixed is not None and everywhere is not None:
        ratios = _efficiency(mixed, everywhere, 'gflops')
        found.checks.append(Check(f'TeraFLOPS of MixNetV / {everywhere.model}', ratios))
    return found


def _deep_late_stages(rows: Sequence[Row]) -> Guideline:
    found = Guideline(
        2,
        'Shallow early stages, deep late stages',
        'ResNet-50, PVT-Small and MixNetV against themselves with depths moved from stages 1 and 2 to the late ones '
        'at equal GFLOPs: TeraFLOPS (speed at equal computation) and TeraParams. That the late ones bring more '
        'parameters is arithmetic; that they cost no speed is not',
        'that the re-depthed networks are more accurate',
    )
    for usual, moved in REDEPTHED:
        before, after = _network(rows, usual.name), _network(rows, moved.name)
        if before is None or after is None:
            found.missing.append(_why_network(rows, usual.name if before is None else moved.name))
            continue
        for quantity, amount in (('TeraFLOPS', 'gflops'), ('TeraParams', 'params')):
            depths = '-'.join(map(str, moved.depths))
            text = f'{quantity} of {usual.name} as {depths} / as {"-".join(map(str, usual.depths))}'
            found.checks.append(Check(text, _efficiency(after, before, amount)))
    return found


def _mixed_blocks(rows: Sequence[Row]) -> Guideline:
    found = Guideline(
        3,
        'A block that mixes Transformer and BottleNeck is more efficient than Transformer alone',
        'TeraFLOPS and TeraParams of MixBlockA, B and C over those of the Transformer block, at equal width in stage '
        '4, where TRT-ViT has them',
        'what the mixing costs in accuracy',
    )
    for kind in OWN_KINDS[2:]:
        for quantity, amount in (('TeraFLOPS', 'block_gflops'), ('TeraParams', 'block_params')):
            ratios = _block_ratio(rows, kind, 'Transformer', 3, amount)
            if ratios is None:
                found.missing.append(_why_block(rows, (kind, 'Transformer'), 3))
                break
            found.checks.append(Check(f'{quantity} of {kind} / Transformer, stage 4', ratios))
        for stage in range(3):
            ratios = _block_ratio(rows, kind, 'Transformer', stage, 'block_gflops')
            if ratios is not None:
                found.beside.append(Check(f'TeraFLOPS of {kind} / Transformer, stage {stage + 1}', ratios))
        speed = _block_ratio(rows, kind, 'Transformer', 3, '')
        if speed is not None:
            found.beside.append(Check(f'speed of {kind} / Transformer, stage 4', speed))
    return found


def _global_first(rows: Sequence[Row]) -> Guideline:
    found = Guideline(
        4,
        'Global first, then local, makes up for the accuracy that mixing costs',
        f'speed of MixBlockC (global, then local) over that of MixBlockB (local, then global), in stages 3 and 4: '
        f'whether C is no slower (threshold {EQUAL:g})',
        'the accuracy that the guideline is about: nothing was trained, so the verdict says only whether C costs speed',
    )
    for stage in range(4):
        ratios = _block_ratio(rows, 'MixBlockC', 'MixBlockB', stage, '')
        if ratios is not None:
            place = found.checks if stage > 1 else found.beside
            place.append(Check(f'speed of MixBlockC / MixBlockB, stage {stage + 1}', ratios, EQUAL))
        elif stage > 1:
            found.missing.append(_why_block(rows, ('MixBlockC', 'MixBlockB'), stage))
    return found


def _block_ratio(rows: Sequence[Row], kind: str, base: str, stage: int, amount: str) -> list[float] | None:
    """``amount`` per time of a block over that of another, round by round; '' for the speed alone.

    NaN in a round that was too noisy for a latency, so that ratios of different blocks stay those of one round.
    """
    own, other = find_row(rows, kind, stage), find_row(rows, base, stage)
    if own is None or other is None:
        return None
    scale = own.extra[amount] / other.extra[amount] if amount else 1.0
    pairs = zip(block_rounds(own), block_rounds(other), strict=False)
    ratios = [scale * theirs / ours if ours > 0 and theirs > 0 else math.nan for ours, theirs in pairs]
    return None if all(map(math.isnan, ratios)) else ratios


def _efficiency(row: Row, base: Row, amount: str) -> list[float]:
    """``gflops`` or ``params`` per time of a network over those of another, round by round."""
    scale = getattr(row, amount) / getattr(base, amount)
    return [scale * theirs / ours for ours, theirs in zip(row.rounds_ms, base.rounds_ms, strict=False)]


def _network(rows: Sequence[Row], name: str) -> Row | None:
    for row in rows:
        if row.part == 'backbone' and row.model == name and row.rounds_ms and not row.error:
            return row
    return None


def _why_block(rows: Sequence[Row], kinds: Sequence[str], stage: int) -> str:
    for row in rows:
        own = row.part == 'block' and row.model in kinds and row.extra.get('stage') == stage + 1
        if own and (row.error or not row.extra.get('teraflops')):
            return f'{row.model}, stage {stage + 1}: {row.error or row.noise or "not measured"}'
    return f'{" and ".join(kinds)}, stage {stage + 1}: not among --kinds and --stages'


def _why_network(rows: Sequence[Row], name: str) -> str:
    row = next((row for row in rows if row.part == 'backbone' and row.model == name), None)
    return f'{name}: {row.error if row is not None and row.error else "not measured"}'
