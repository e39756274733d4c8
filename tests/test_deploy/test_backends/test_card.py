"""The card beside an engine: written, read, verified, and refused when it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrtvit.deploy.backends import (
    BackendError,
    EngineCard,
    TensorSpec,
    card_path,
    get_backend,
    read_card,
    sha256_of,
    verify_card,
    write_card,
)

IMAGE = TensorSpec('image', 'float32', ('batch', 3, 32, 32))


def card_of(engine: Path | None = None, **changes: Any) -> EngineCard:
    values: dict[str, Any] = dict(
        model='retinanet_trtvit-c',
        config='configs/retinanet_trtvit.py',
        checkpoint='epoch_12.pth',
        checkpoint_sha256='ab' * 32,
        onnx='end2end.onnx',
        onnx_sha256='cd' * 32,
        engine_sha256=sha256_of(engine) if engine else 'ef' * 32,
        backend='tensorrt',
        backend_version='10.13.2',
        precision_asked='fp16',
        precision_obtained='fp16',
        precision_share=0.95,
        precision_source='inspector',
        inputs=(IMAGE,),
        outputs=(TensorSpec('boxes', 'float32', ('batch', 100, 4)),),
        normalization={'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'to_rgb': True},
        classes=('person', 'bicycle'),
        opset=20,
        date='2026-01-02T03:04:05+00:00',
        command='tools/deploy.py a b c d',
        gpu='NVIDIA A10',
        compute_capability='8.6',
    )
    return EngineCard(**(values | changes))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / 'end2end.engine'
    path.write_bytes(b'engine' * 1000)
    return path


def test_round_trip(engine: Path) -> None:
    card = card_of(engine, extra={'task': 'detection', 'score': 0.05})
    assert write_card(card, engine) == engine.with_name('end2end.engine.json') == card_path(engine)
    assert read_card(engine) == card
    assert json.loads(card_path(engine).read_text())['schema_version'] == 1


@given(st.lists(st.text(min_size=1), unique=True), st.text(), st.floats(0, 1))
def test_round_trip_of_any_text(classes: list[str], command: str, share: float) -> None:
    card = card_of(classes=tuple(classes), command=command, precision_share=share)
    assert EngineCard.from_dict(json.loads(json.dumps(card.to_dict())), 'x') == card


def test_sha256_is_hashlibs(engine: Path) -> None:
    assert sha256_of(engine) == hashlib.sha256(b'engine' * 1000).hexdigest()


def test_a_missing_card_says_what_to_do(engine: Path) -> None:
    with pytest.raises(BackendError, match=r'engine\.json: no such file: .* has no card.*tools/deploy\.py$'):
        read_card(engine)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'not JSON'),
        (b'{"schema_version": 1', 'not JSON'),
        (b'\xff\xfe\x00', 'not JSON'),
        (b'[' * 100_000, 'not JSON'),
        (b'1' * 10_000, 'not JSON'),
        (b'[]', 'list instead of an object'),
        (b'{}', 'schema_version=None'),
        (b'{"schema_version": true}', 'schema_version=True'),
        (b'{"schema_version": 0}', 'this version reads 1; build the engine again'),
        (b'{"schema_version": 2}', 'this version reads 1; update mmtrtvit'),
        (b'{"schema_version": 1, "modle": 1}', "missing model, config.*unknown 'modle'"),
    ],
)
def test_what_is_no_card(content: bytes, message: str, engine: Path) -> None:
    card_path(engine).write_bytes(content)
    with pytest.raises(BackendError, match=message) as caught:
        read_card(engine)
    assert str(card_path(engine)) in str(caught.value)


@pytest.mark.parametrize('field', [entry.name for entry in dataclasses.fields(EngineCard)])
def test_every_field_is_checked(field: str) -> None:
    values = card_of().to_dict()
    wrong = {**values, field: object()}
    with pytest.raises(BackendError, match=rf'card\.json: .*{field}='):
        EngineCard.from_dict(wrong, 'card.json')


@pytest.mark.parametrize(
    'spec',
    [
        {'name': 'x', 'dtype': 'float32'},
        {'name': 'x', 'dtype': 'quaternion', 'shape': [1]},
        {'name': 1, 'dtype': 'float32', 'shape': [1]},
        {'name': 'x', 'dtype': 'float32', 'shape': [1.5]},
        {'name': 'x', 'dtype': 'float32', 'shape': 'abc'},
        'x',
    ],
)
def test_wrong_tensors(spec: object) -> None:
    with pytest.raises(BackendError, match=r'card\.json: inputs'):
        EngineCard.from_dict({**card_of().to_dict(), 'inputs': [spec]}, 'card.json')


def verified(
    engine: Path, card: EngineCard, backend: str = 'tensorrt', version: str = '10.13.2', cc: str = '8.6'
) -> None:
    verify_card(engine, card, backend=backend, version=version, compute_capability=cc)


def test_a_matching_card(engine: Path) -> None:
    verified(engine, card_of(engine))
    verified(engine, card_of(engine), cc='')


def test_another_backend_or_another_file(engine: Path) -> None:
    with pytest.raises(BackendError, match='was built for tensorrt, not for onnxruntime: load it with tensorrt'):
        verified(engine, card_of(engine), backend='onnxruntime')
    with pytest.raises(BackendError, match=r'its card says efefefefefef\.\.\.: the file is damaged, or another one'):
        verified(engine, card_of())


def test_another_version(engine: Path) -> None:
    with pytest.raises(BackendError, match=r'built with tensorrt 10\.13\.2, here is 10\.14\.0\. Install that version'):
        verified(engine, card_of(engine), version='10.14.0')
    verified(engine, card_of(engine, version_compatible=True), version='10.14.0')
    verified(engine, card_of(engine, version_compatible=True), version='11.0.0')
    with pytest.raises(BackendError, match=r'a later one than this, here is 10\.9\.0'):
        verified(engine, card_of(engine, version_compatible=True), version='10.9.0')
    ort = card_of(engine, backend='onnxruntime', backend_version='1.22.0')
    verified(engine, ort, backend='onnxruntime', version='1.31.1')


def test_another_gpu(engine: Path) -> None:
    with pytest.raises(
        BackendError, match=r'built on NVIDIA A10 with compute capability 8\.6, this GPU has 9\.0: build'
    ):
        verified(engine, card_of(engine), cc='9.0')
    verified(engine, card_of(engine, hardware_compatible='ampere_plus'), cc='9.0')
    with pytest.raises(BackendError, match=r'this GPU has 7\.5'):
        verified(engine, card_of(engine, hardware_compatible='ampere_plus'), cc='7.5')


def test_rtx_targets(engine: Path) -> None:
    rtx: dict[str, Any] = dict(backend='tensorrt-rtx', compute_capability='', gpu='')
    verified(engine, card_of(engine, **rtx), backend='tensorrt-rtx', cc='12.0')
    targeted = card_of(engine, compute_capabilities=('8.6', '12.0'), **rtx)
    verified(engine, targeted, backend='tensorrt-rtx', cc='12.0')
    with pytest.raises(BackendError, match=r"built for compute capability 8\.6, 12\.0, this GPU has 8\.9.*\['8\.9'\]"):
        verified(engine, targeted, backend='tensorrt-rtx', cc='8.9')


def test_loading_needs_the_card(graphs: dict[str, Path], tmp_path: Path) -> None:
    backend = get_backend('onnxruntime')
    engine = tmp_path / 'model.onnx'
    report = backend.build(graphs['convolution'], engine)
    with pytest.raises(BackendError, match='has no card'):
        backend.load(engine)
    backend.load(engine, require_card=False).close()
    write_card(card_of(engine, backend='onnxruntime', backend_version=report.version), engine)
    backend.load(engine).close()
    engine.write_bytes(engine.read_bytes() + b' ')
    for require_card in (True, False):  # a card that is there is believed either way
        with pytest.raises(BackendError, match='its card says'):
            backend.load(engine, require_card=require_card)
