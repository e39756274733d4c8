"""Interleaved rounds: every subject in turn, round after round, so that what slows the machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch

from mmtrtvit.errors import UserError

__all__ = ['Measured', 'Sample', 'interleave', 'reason', 'stopwatch']


@dataclass(frozen=True)
class Sample:
    """One timed call.

    Attributes:
        wall_ms: From the call until its outputs are there.
        device_ms: Between two CUDA events around it; None on the CPU.
    """

    wall_ms: float
    device_ms: float | None = None


@dataclass
class Measured:
    """What the rounds gave.

    Attributes:
        samples: Subject to its rounds, each a list of calls.
        errors: Subject to why it was dropped; what it had measured before stays in ``samples``.
        interrupted: Whether Ctrl-C ended the rounds early.
    """

    samples: dict[str, list[list[Sample]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def walls(self, name: str) -> list[float]:
        """Wall times of all calls of a subject, ms."""
        return [sample.wall_ms for turn in self.samples.get(name, []) for sample in turn]

    def devices(self, name: str) -> list[float]:
        """GPU times of all calls of a subject, ms; empty on the CPU."""
        calls = [sample for turn in self.samples.get(name, []) for sample in turn]
        return [sample.device_ms for sample in calls if sample.device_ms is not None]

    def rounds(self, name: str, device: bool = False) -> list[float]:
        """A subject's median of each round, ms."""
        turns = self.samples.get(name, [])
        if device:
            return [median(sample.device_ms or 0.0 for sample in turn) for turn in turns]
        return [median(sample.wall_ms for sample in turn) for turn in turns]


def reason(error: Exception) -> str:
    """Why a row has no measurement: a message to the user as it is, anything else with its kind."""
    return str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'


def stopwatch(call: Callable[[], object], device: torch.device) -> Callable[[], Sample]:
    """Wrap a call into one that measures itself.

    On a GPU the clock starts when all earlier work is done and stops when the call's own is; the events are recorded
    on the current stream, which the engines of all backends wait for or run on.
    """
    if device.type != 'cuda':

        def on_cpu() -> Sample:
            begin = time.perf_counter()
            call()
            return Sample((time.perf_counter() - begin) * 1000)

        return on_cpu
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def on_gpu() -> Sample:
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        begin_event.record(torch.cuda.current_stream(device))
        call()
        end_event.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        wall = (time.perf_counter() - begin) * 1000
        return Sample(wall, float(begin_event.elapsed_time(end_event)))

    return on_gpu


def interleave(
    subjects: Mapping[str, Callable[[], Sample]],
    *,
    rounds: int,
    warmup: int = 1,
    calls: int = 1,
    limit_s: float | None = None,
    progress: Callable[[str, int], None] = lambda name, round_number: None,
    after_round: Callable[[Measured], None] = lambda measured: None,
) -> Measured:
    """Measure subjects A B C A B C ...

    Args:
        subjects: Name to a call that measures itself; see :func:`stopwatch`.
        rounds: How often everything is measured.
        warmup: Calls of each subject before the first round, thrown away.
        calls: Calls of a subject in its turn.
        limit_s: No new round begins after this many seconds; at least one is measured. Only whole rounds count.
        progress: Called with the subject and the round (0 while warming up) before each turn.
        after_round: Called with what there is, to be kept on disk.

    Returns:
        The samples; of a subject that failed also its error, and it takes no further part. Ctrl-C ends the rounds;
        the round that it fell into is thrown away, for its ratios would lack a side.
    """
    found = Measured({name: [] for name in subjects})
    begin = time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and limit_s is not None and time.perf_counter() - begin > limit_s:
            break
        turns: dict[str, list[Sample]] = {}
        try:
            for name, call in subjects.items():
                if name in found.errors:
                    continue
                progress(name, number)
                try:
                    turns[name] = [call() for _ in range(calls if number else warmup)]
                except Exception as error:  # whatever a model or a backend raises is a row, not the end of the run
                    found.errors[name] = reason(error)
        except KeyboardInterrupt:
            found.interrupted = True
            break
        if number:
            for name, samples in turns.items():
                found.samples[name].append(samples)
            after_round(found)
    return found
