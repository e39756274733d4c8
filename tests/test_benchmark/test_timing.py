"""Interleaved rounds: the order, what is thrown away, what an error or Ctrl-C leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmtrtvit.apis import machine
from mmtrtvit.apis.machine import Activity, clocks, cores, hardware, versions
from mmtrtvit.benchmark.timing import Measured, Sample, interleave, stopwatch


class Recorder:
    """Subjects that write down their turns."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def subject(self, name: str, fail_at: int = 0, error: BaseException | None = None) -> Callable[[], Sample]:
        def call() -> Sample:
            self.turns.append(name)
            if error is not None and self.turns.count(name) == fail_at:
                raise error
            return Sample(float(len(self.turns)))

        return call


def test_rounds_are_interleaved_and_the_warm_up_is_thrown_away() -> None:
    recorder = Recorder()
    seen: list[tuple[str, int]] = []
    rounds: list[int] = []
    found = interleave(
        {name: recorder.subject(name) for name in 'abc'}, rounds=3, warmup=2, calls=2,
        progress=lambda name, number: seen.append((name, number)),
        after_round=lambda measured: rounds.append(len(measured.samples['a'])),
    )  # fmt: skip
    assert ''.join(recorder.turns) == 'aabbcc' * 4
    assert [len(found.samples[name]) for name in 'abc'] == [3, 3, 3]
    assert found.walls('a') == [7, 8, 13, 14, 19, 20]
    assert found.rounds('a') == [7.5, 13.5, 19.5]
    assert seen[:4] == [('a', 0), ('b', 0), ('c', 0), ('a', 1)]
    assert rounds == [1, 2, 3]
    assert not found.interrupted
    assert found.errors == {}


def test_no_warm_up() -> None:
    recorder = Recorder()
    interleave({'a': recorder.subject('a')}, rounds=2, warmup=0)
    assert recorder.turns == ['a', 'a']


def test_one_that_fails_leaves_the_others_alone() -> None:
    recorder = Recorder()
    subjects = {
        'a': recorder.subject('a'),
        'b': recorder.subject('b', 3, RuntimeError('out of memory')),
        'c': recorder.subject('c'),
    }
    found = interleave(subjects, rounds=4, warmup=1)
    assert found.errors == {'b': 'RuntimeError: out of memory'}
    assert [len(found.samples[name]) for name in 'abc'] == [4, 1, 4]


def test_ctrl_c_keeps_whole_rounds_only() -> None:
    recorder = Recorder()
    subjects = {'a': recorder.subject('a'), 'b': recorder.subject('b', 4, KeyboardInterrupt())}
    found = interleave(subjects, rounds=9, warmup=1)
    assert found.interrupted
    assert [len(found.samples[name]) for name in 'ab'] == [2, 2]


def test_the_time_limit_leaves_at_least_one_round() -> None:
    def slow() -> Sample:
        time.sleep(0.01)
        return Sample(10.0)

    assert len(interleave({'a': slow}, rounds=50, warmup=0, limit_s=0).samples['a']) == 1
    found = interleave({'a': slow}, rounds=1000, warmup=0, limit_s=0.1)
    assert 1 < len(found.samples['a']) < 50
    assert not found.interrupted


def test_the_stopwatch_tells_the_time() -> None:
    watch = stopwatch(lambda: time.sleep(0.03), torch.device('cpu'))
    sample = watch()
    assert 29 < sample.wall_ms < 1000
    assert sample.device_ms is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_the_stopwatch_waits_for_the_gpu() -> None:
    x = torch.rand(4096, 4096, device='cuda')
    sample = stopwatch(lambda: x @ x, torch.device('cuda', 0))()
    assert sample.device_ms is not None
    assert 0 < sample.device_ms <= sample.wall_ms


def test_device_times_are_kept_apart() -> None:
    found = Measured({'a': [[Sample(3.0, 1.0), Sample(5.0, 2.0)], [Sample(4.0, 4.0)]]})
    assert found.devices('a') == [1.0, 2.0, 4.0]
    assert found.rounds('a', device=True) == [1.5, 4.0]
    assert found.rounds('a') == [4.0, 4.0]


def test_the_machine_describes_itself() -> None:
    facts = hardware()
    assert facts['cpu']
    assert 0 < cores() == facts['cores']
    assert facts['memory_gib'] > 0.1
    assert versions()['torch'] == torch.__version__
    assert clocks()['load_average'] >= 0


@pytest.mark.skipif(not Path('/proc/stat').exists(), reason='needs /proc/stat')
def test_others_work_is_noticed() -> None:
    """Another process's CPU time, read from its own record, is counted; this process's own is not."""
    watch, own = Activity.begin(), time.process_time()
    code = 'import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ninput()'
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE) as other:
        while _cpu_seconds(other.pid) < 0.3:
            time.sleep(0.01)
        while time.process_time() - own < 0.2:
            pass
        busy, wall = watch.others(), time.perf_counter() - watch.wall
        other.communicate(b'\n')
    assert busy is not None
    assert busy * wall >= 0.3 - 0.05  # the kernel counts in hundredths
    assert busy * wall <= cores() * wall - 0.2 + 0.1
    assert Activity(watch.wall, -1.0, 0.0).others() is None


@pytest.mark.parametrize(('mine', 'seconds'), [({0}, 10.0), ({1}, 40.0), ({0, 1}, 50.0), ({10}, 0.0), ({7}, None)])
def test_only_cores_that_are_ours_count(
    mine: set[int], seconds: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under taskset, what others do on the cores left to them disturbs no measurement."""
    ticks = os.sysconf('SC_CLK_TCK')
    rows = {'cpu': 90, 'cpu0': 10, 'cpu1': 40, 'cpu10': 0}
    lines = [f'{name} {busy * ticks} 0 0 7777 88 0 0 0 5 0' for name, busy in rows.items()]
    (tmp_path / 'stat').write_text('\n'.join([*lines, 'intr 1 2 3', '']))
    monkeypatch.setattr(machine, '_STAT', tmp_path / 'stat')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: mine, raising=False)
    assert Activity.begin().busy == (-1.0 if seconds is None else seconds)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
