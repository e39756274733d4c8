"""Counting layers by precision, and refusing an engine that is not in the precision that was asked for.

Which layers count:

* ``products``: convolutions, matrix products and attention. They hold the arithmetic, so they decide: of them, the
  share in the asked precision must reach :data:`~mmtrtvit.deploy.backends.options.MIN_PRECISION_SHARE`.
* ``floats``: every layer that computes floating numbers, the products included (element-wise, normalisation,
  reduction, softmax, pooling, resize, sampling ...). Reported, not judged: exact post-processing in fp32 is many
  small layers.

Constants, layers on integers, booleans and shapes, and layers that only move, reshape or convert (shuffle, slice,
concatenation, gather, cast, quantise) count in neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mmtrtvit.deploy.backends.options import BuildOptions
from mmtrtvit.deploy.backends.types import BackendError

__all__ = ['Tally', 'check_precision']


@dataclass(frozen=True)
class Tally:
    """Layers counted by type and precision.

    Attributes:
        source: What was read: ``inspector``, ``network`` or ``graph``.
        layers: All of them.
        by_type: How many of each type.
        products: Precision -> how many convolutions and matrix products.
        floats: Precision -> how many layers that compute floating numbers, products included.
    """

    source: str
    layers: int
    by_type: dict[str, int] = field(default_factory=dict)
    products: dict[str, int] = field(default_factory=dict)
    floats: dict[str, int] = field(default_factory=dict)

    @property
    def obtained(self) -> str:
        """The precision that most products have; of most layers where there is no product; or empty."""
        counts = self.products or self.floats
        return max(counts, key=lambda key: counts[key]) if counts else ''

    def share(self, precision: str) -> float:
        """Share of products in ``precision``, 0 to 1; of all floating layers where there is no product."""
        return _share(self.products or self.floats, precision)

    def float_share(self, precision: str) -> float:
        """Share of all floating layers in ``precision``, 0 to 1."""
        return _share(self.floats, precision)


def _share(counts: dict[str, int], precision: str) -> float:
    total = sum(counts.values())
    return counts.get(precision, 0) / total if total else 1.0


def check_precision(tally: Tally, options: BuildOptions, onnx: str, backend: str) -> None:
    """Refuse what is not in the asked precision.

    Raises:
        BackendError: Fewer convolutions and matrix products are in that precision than the options allow.
    """
    asked = options.precision
    share = tally.share(asked)
    if share >= options.least_share:
        return
    found = ', '.join(f'{count} in {key}' for key, count in sorted((tally.products or tally.floats).items()))
    where = {'inspector': 'the engine has', 'network': 'the parsed network has', 'graph': 'the graph has'}[tally.source]
    other = tally.obtained != asked
    instead = f'ask for {tally.obtained or "another precision"}' if other else 'ask for a smaller share'
    raise BackendError(
        f'{onnx}: {asked} was asked of {backend}, but {where} {share:.0%} of its convolutions and matrix products in '
        f'{asked} ({found}), less than min_precision_share={options.least_share:g}. The ONNX graph carries the '
        f'precision: export it in {asked}, or {instead}.'
    )
