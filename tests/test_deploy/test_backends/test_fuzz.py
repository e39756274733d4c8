"""Damaged files through the loaders: each ends in a BackendError or loads; no crash of the interpreter, no hang.

A worker process takes the blows: ONNX Runtime and TensorRT parse in native code, where a fault would take pytest along.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrtvit.deploy.backends import EngineCard, TensorSpec, get_backend, sha256_of, write_card

#: Seconds after which one file counts as a hang; loading takes milliseconds.
HANG = 60
WORKER = Path(__file__).with_name('fuzz_worker.py')


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` cut, with bits turned, bytes overwritten, a piece left out, doubled or filled with one value."""
    content = bytearray(data)
    kind = rng.integers(6)
    start, stop = sorted(int(value) for value in rng.integers(0, len(content), 2))
    if kind == 0:
        del content[start:]
    elif kind == 1:
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        for place in rng.integers(0, min(len(content), 400), 3):  # the head, where the structure is
            content[place] = int(rng.integers(256))
    elif kind == 3:
        del content[start : min(stop, start + 64)]
    elif kind == 4:
        content[start:start] = content[start : min(stop, start + 64)]
    else:
        content[start : min(stop, start + 64)] = bytes([int(rng.choice([0, 255, 127, 128]))]) * min(stop - start, 64)
    return bytes(content)


class Worker:
    """Loads files in another process, one after the other; started when first asked and after a crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.hung = False

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )  # fmt: skip
        self.process, self.hung = process, False
        self.ask({})  # the imports
        return process

    def ask(self, task: dict[str, Any]) -> str:
        """What came of it: ``ok``, the name of the error and its text, or ``crash`` or ``hang``."""
        process = self.process or self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(HANG, self._give_up)
        alarm.start()
        process.stdin.write(json.dumps(task) + '\n')
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        alarm.cancel()
        if answer:
            return answer
        self.process = None
        return 'hang' if self.hung else f'crash {process.wait()}'

    def _give_up(self) -> None:
        self.hung = True
        self.close()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope='module')
def worker() -> Iterator[Worker]:
    process = Worker()
    yield process
    process.close()


def fuzz(worker: Worker, kind: str, source: Path, folder: Path, count: int, seed: int, **task: Any) -> dict[str, int]:
    """Try ``count`` mutations of ``source``; return how often each kind of answer came."""
    rng = np.random.default_rng(seed)
    data = source.read_bytes()
    target = folder / f'mutant{source.suffix}'
    answers: dict[str, int] = {}
    for number in range(count):
        content = mutated(data, rng)
        victim = Path(f'{target}.json') if kind == 'card' else target
        victim.write_bytes(content)
        answer = worker.ask({**task, 'path': str(target)})
        word = answer.partition(' ')[0]
        if word not in ('ok', 'BackendError'):
            keep = folder / f'kept-{seed}-{number}{source.suffix}'
            keep.write_bytes(content)
            pytest.fail(f'{kind} {number} of seed {seed}: {answer}; the file is {keep}')
        if word == 'BackendError':
            assert target.name in answer, answer
        answers[word] = answers.get(word, 0) + 1
    return answers


def card_for(engine: Path, backend: str, version: str) -> EngineCard:
    image = TensorSpec('image', 'float32', (1, 3, 32, 32))
    return EngineCard(
        model='m', config='c', checkpoint='none', checkpoint_sha256='none', onnx='o', onnx_sha256='0' * 64,
        engine_sha256=sha256_of(engine), backend=backend, backend_version=version, precision_asked='fp32',
        precision_obtained='fp32', precision_share=1.0, precision_source='graph', inputs=(image,), outputs=(image,),
        normalization={'mean': [0.0]}, classes=('a',), opset=20, date='2026-01-01', command='x',
    )  # fmt: skip


@pytest.mark.parametrize('count', [24, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', ['convolution', 'attention'])
def test_onnx_without_a_card(name: str, count: int, worker: Worker, graphs: dict[str, Path], tmp_path: Path) -> None:
    answers = fuzz(worker, 'model', graphs[name], tmp_path, count, seed=count, backend='onnxruntime')
    assert answers['BackendError'] > count / 4


@pytest.mark.parametrize('count', [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_onnx_with_a_card_stops_at_the_hash(
    count: int, worker: Worker, graphs: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / 'mutant.onnx'
    target.write_bytes(graphs['convolution'].read_bytes())
    version = get_backend('onnxruntime').availability().version
    write_card(card_for(target, 'onnxruntime', version), target)
    answers = fuzz(
        worker, 'model', graphs['convolution'], tmp_path, count, seed=1, backend='onnxruntime', require_card=True
    )
    assert answers['BackendError'] >= count * 0.9  # the rest are mutations that change nothing


@pytest.mark.parametrize('count', [24, pytest.param(3000, marks=pytest.mark.slow)])
def test_cards(count: int, worker: Worker, graphs: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / 'mutant.onnx'
    target.write_bytes(graphs['convolution'].read_bytes())
    version = get_backend('onnxruntime').availability().version
    card = write_card(card_for(target, 'onnxruntime', version), target)
    source = tmp_path / 'card.onnx'
    source.write_bytes(card.read_bytes())
    answers = fuzz(worker, 'card', source, tmp_path, count, seed=2, backend='onnxruntime', require_card=True)
    assert answers['BackendError'] > count / 4


@pytest.mark.parametrize('count', [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_onnx_to_the_builder(count: int, worker: Worker, graphs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip('tensorrt_rtx_bindings')
    answers = fuzz(worker, 'graph', graphs['convolution'], tmp_path, count, seed=3, backend='tensorrt-rtx', build=True)
    assert answers['BackendError'] > count / 4


@pytest.mark.parametrize('count', [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_engines(count: int, worker: Worker, graphs: dict[str, Path], tmp_path: Path) -> None:
    """Straight into the library's deserialiser: without a GPU it refuses them all, but it reads them first."""
    pytest.importorskip('tensorrt_rtx_bindings')
    engine = tmp_path / 'whole.engine'
    get_backend('tensorrt-rtx').build(graphs['convolution'], engine)
    answers = fuzz(worker, 'engine', engine, tmp_path, count, seed=4, backend='tensorrt-rtx', deserialize=True)
    assert sum(answers.values()) == count
