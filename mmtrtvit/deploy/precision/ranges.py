"""What values activations take on real images, measured one batch at a time."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import (
    EntropyCalibrater,
    HistogramCollector,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorsData,
)

from mmtrtvit.deploy.precision.report import PrecisionError

Feed = Mapping[str, np.ndarray]
#: Called with the phase, the batches done and how many there are, 0 where that is not known.
Progress = Callable[[str, int, int], None]
METHODS: dict[str, Any] = {'entropy': EntropyCalibrater, 'percentile': PercentileCalibrater, 'minmax': MinMaxCalibrater}


class OneBatch(CalibrationDataReader):
    """A reader of a single batch.

    ONNX Runtime's calibrators keep the activations of everything a reader yields (and with
    ``CalibMaxIntermediateOutputs`` throw some away before looking at them), so they get one batch at a time.
    """

    def __init__(self, feed: Feed) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([dict(feed)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the batch, then None."""
        return next(self._feeds, None)


class _Histograms(HistogramCollector):
    """Histograms around 0 of a bounded number of bins.

    The first batch decides how wide a bin is: after an image of next to nothing, the next ones would make millions,
    and the search for the best threshold goes through all of them.
    """

    bins = 1024

    def merge_histogram(self, old_histogram: Any, data_arr: Any, new_min: Any, new_max: Any, new_threshold: Any) -> Any:
        """Add a batch, with wider bins where there would be too many."""
        counts, edges, low, high, threshold = old_histogram
        wanted = len(counts) * float(new_threshold) / float(threshold) if threshold else 0  # bins
        join = math.ceil(wanted / self.bins)
        if join > 1:
            half = len(counts) // 2  # as many bins on either side of 0
            starts = np.arange(0, half, min(join, half))
            left, right = (np.add.reduceat(side, starts) for side in (counts[:half][::-1], counts[half:]))
            threshold = np.asarray(float(threshold) / half * join * len(starts), edges.dtype)
            counts = np.concatenate([left[::-1], right])
            edges = np.linspace(-threshold, threshold, len(counts) + 1, dtype=edges.dtype)
        return super().merge_histogram((counts, edges, low, high, threshold), data_arr, new_min, new_max, new_threshold)


def collect(
    path: Path,
    batches: Iterable[Feed],
    tensors: Iterable[str] | None = None,
    method: str = 'minmax',
    progress: Progress = lambda phase, step, steps: None,
) -> TensorsData:
    """Measure the ranges of activations.

    Args:
        path: The fp32 graph.
        batches: Input name -> array, one after the other.
        tensors: Of these; None for all floating ones.
        method: A key of :data:`METHODS`.
        progress: See :data:`Progress`.

    Raises:
        PrecisionError: There is no batch, or one does not fit the graph.
    """
    if method not in METHODS:
        raise PrecisionError(f'method={method!r} is not one of {", ".join(METHODS)}')
    steps = len(batches) if isinstance(batches, Sized) else 0
    done = 0
    with tempfile.TemporaryDirectory(prefix='mmtrtvit-') as folder:
        calibrator = METHODS[method](path, augmented_model_path=str(Path(folder) / 'augmented.onnx'), symmetric=True)
        if tensors is not None:
            _select(calibrator, set(tensors))
        if method == 'entropy':
            calibrator.collector = _Histograms(
                'entropy', True, calibrator.num_bins, calibrator.num_quantized_bins, None, None
            )
        calibrator.augment_graph()
        calibrator.create_inference_session()
        progress('Calibrating', 0, steps)
        for feed in batches:
            done += 1
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the histograms talk
                    calibrator.collect_data(OneBatch(feed))
            except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
                raise PrecisionError(f'{path}: cannot be run on calibration batch {done}: {error}') from error
            progress('Calibrating', done, steps)
        if not done:
            raise PrecisionError(f'{path}: there are no calibration images: name a data set with images')
        with contextlib.redirect_stdout(io.StringIO()):
            return calibrator.compute_data()


def _select(calibrator: Any, wanted: set[str]) -> None:
    """Let a calibrator look at some tensors only; it chooses by operator, which takes in the islands."""
    choose = calibrator.select_tensors_to_calibrate

    def select(model: onnx.ModelProto) -> tuple[set[str], dict[str, Any]]:
        names, infos = choose(model)
        return names & wanted, infos

    calibrator.select_tensors_to_calibrate = select


def largest_magnitudes(
    path: Path, batches: Iterable[Feed], progress: Progress = lambda phase, step, steps: None
) -> dict[str, float]:
    """Tensor -> the largest magnitude seen in it."""
    data = collect(path, batches, progress=progress)
    return {name: float(np.max(np.abs(data[name].range_value))) for name in data.keys()}  # noqa: SIM118  # no dict
