"""What a precision pass did, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtrtvit.errors import UserError


class PrecisionError(UserError, RuntimeError):
    """A graph that cannot be cast or quantised; the message names the file, the tensor or node, and the way out."""


@dataclass(frozen=True)
class PrecisionReport:
    """What a precision pass made of a graph.

    Attributes:
        path: The ONNX file written.
        sha256: Of the file.
        precision: ``'fp16'`` or ``'int8'``.
        products: Precision -> how many convolutions and matrix products outside the islands are in it.
        kept: Reason -> names of the nodes that the pass left in their precision for it; only nodes that touch
            floating numbers. The reasons are explained in :data:`mmtrtvit.deploy.precision.islands.REASONS`.
        casts: Cast nodes in the file.
        quantizers: QuantizeLinear nodes in the file.
        flushed: How many non-zero weights are too small for fp16 and became 0.
        nodes: Nodes in the file.
        seconds: Wall time.
    """

    path: Path
    sha256: str
    precision: str
    products: Mapping[str, int]
    kept: Mapping[str, tuple[str, ...]]
    casts: int
    nodes: int
    seconds: float
    quantizers: int = 0
    flushed: int = 0

    @property
    def kept_counts(self) -> dict[str, int]:
        """Reason -> how many nodes were left for it."""
        return {reason: len(names) for reason, names in self.kept.items()}

    @property
    def share(self) -> float:
        """Share of those convolutions and matrix products in the asked precision, 0 to 1."""
        total = sum(self.products.values())
        return self.products.get(self.precision, 0) / total if total else 1.0

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: counts in the place of names."""
        return {
            'path': str(self.path),
            'sha256': self.sha256,
            'precision': self.precision,
            'products': dict(self.products),
            'share': self.share,
            'kept': self.kept_counts,
            'casts': self.casts,
            'quantizers': self.quantizers,
            'flushed': self.flushed,
            'nodes': self.nodes,
            'seconds': self.seconds,
        }

    def __str__(self) -> str:
        counts = ', '.join(f'{count} {precision}' for precision, count in sorted(self.products.items()))
        kept = ', '.join(f'{count} {reason}' for reason, count in self.kept_counts.items())
        return f'{self.path}: convolutions and matrix products: {counts}; left alone: {kept or "nothing"}'
