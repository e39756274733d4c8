"""The card beside an engine: what it is, what it was made from, and where it may run.

``<engine file>.json`` is written last, so an engine without a card is one whose making was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmtrtvit.deploy.backends.types import BackendError, TensorSpec
from mmtrtvit.fileio import atomic_write_json

__all__ = [
    'RANDOM_WEIGHTS',
    'EngineCard',
    'card_path',
    'read_card',
    'sha256_of',
    'verify_card',
    'verify_digest',
    'write_card',
]

SCHEMA_VERSION = 1
#: In the place of a checkpoint's sha256 when there was none.
RANDOM_WEIGHTS = 'none: random weights'

_REBUILD = 'build the engine again on this machine'
#: Larger than any card; a file of more is something else.
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class EngineCard:
    """What is known about an engine.

    Attributes:
        model: Name of the model, such as ``mask_rcnn_trtvit-c``.
        config: The model's config file.
        deploy_config: The deployment's config file.
        checkpoint: The checkpoint file, or :data:`RANDOM_WEIGHTS`.
        checkpoint_sha256: Of that file, or :data:`RANDOM_WEIGHTS`.
        onnx: The ONNX file.
        onnx_sha256: Of that file.
        engine_sha256: Of the engine.
        backend: Name of the backend.
        backend_version: Of its library.
        gpu: Name of the GPU it was built on; empty where none was needed.
        compute_capability: Of that GPU, such as ``9.0``; empty where none was needed.
        compute_capabilities: GPUs it was built for, such as ``['8.6']``; empty for the builder's own or all.
        version_compatible: Whether later versions of the library may load it.
        hardware_compatible: As in the build options.
        precision_asked: ``fp32``, ``fp16`` or ``int8``.
        precision_obtained: The same, as read from what was built.
        precision_share: Share of convolutions and matrix products in it, 0 to 1.
        precision_source: ``inspector``, ``network`` or ``graph``.
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        normalization: How an image becomes the input: ``mean``, ``std``, ``to_rgb`` and what else it takes.
        classes: Names by label.
        opset: Of the ONNX file.
        date: When it was built, ISO 8601 with time zone.
        command: The command line that made it.
        trtexec: The equivalent trtexec line, or empty.
        extra: Whatever the maker wants to keep: task, image size, score thresholds, build report.
        schema_version: Of this file.
    """

    model: str
    config: str
    checkpoint: str
    checkpoint_sha256: str
    onnx: str
    onnx_sha256: str
    engine_sha256: str
    backend: str
    backend_version: str
    precision_asked: str
    precision_obtained: str
    precision_share: float
    precision_source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normalization: dict[str, Any]
    classes: tuple[str, ...]
    opset: int
    date: str
    command: str
    deploy_config: str = ''
    gpu: str = ''
    compute_capability: str = ''
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: str = 'none'
    trtexec: str = ''
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {
            'inputs': [spec.to_dict() for spec in self.inputs],
            'outputs': [spec.to_dict() for spec in self.outputs],
            'classes': list(self.classes),
            'compute_capabilities': list(self.compute_capabilities),
        }

    @classmethod
    def from_dict(cls, values: object, source: str) -> EngineCard:
        """Read what :meth:`to_dict` wrote.

        Args:
            values: The parsed JSON.
            source: Where it came from, for the message.

        Raises:
            BackendError: A field is missing, unknown or of the wrong kind, or the schema is another one.
        """
        if not isinstance(values, dict):
            raise BackendError(
                f'{source}: not an engine card: {type(values).__name__} instead of an object; {_REBUILD}'
            )
        version = values.get('schema_version')
        if not isinstance(version, int) or isinstance(version, bool):
            raise BackendError(f'{source}: not an engine card: schema_version={version!r}; {_REBUILD}')
        if version != SCHEMA_VERSION:
            newer = 'update mmtrtvit' if version > SCHEMA_VERSION else _REBUILD
            raise BackendError(f'{source}: schema_version={version}, this version reads {SCHEMA_VERSION}; {newer}')
        required, optional = _field_names()
        missing = [name for name in required if name not in values]
        unknown = [name for name in values if name not in required + optional]
        if missing or unknown:
            parts = [f'missing {", ".join(missing)}'] if missing else []
            parts += [f'unknown {", ".join(map(repr, unknown))}'] if unknown else []
            raise BackendError(f'{source}: not a whole engine card: {"; ".join(parts)}; {_REBUILD}')
        return cls(**{name: _read_field(name, value, source) for name, value in values.items()})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _field_names() -> tuple[list[str], list[str]]:
    first = [entry.name for entry in fields(EngineCard)]
    split = first.index('deploy_config')
    return first[:split], first[split:]


def _read_field(name: str, value: Any, source: str) -> Any:
    if name in ('inputs', 'outputs'):
        return _read_specs(name, value, source)
    if name in ('classes', 'compute_capabilities'):
        return tuple(
            _need(isinstance(value, list) and all(isinstance(item, str) for item in value), name, value, source)
        )
    if name in ('normalization', 'extra'):
        return _need(isinstance(value, dict), name, value, source)
    if name in ('opset', 'schema_version'):
        return _need(_is_whole(value), name, value, source)
    if name == 'precision_share':
        return float(_need(isinstance(value, int | float) and 0 <= value <= 1, name, value, source))
    if name == 'version_compatible':
        return _need(isinstance(value, bool), name, value, source)
    return _need(isinstance(value, str), name, value, source)


def _need(right: bool, name: str, value: Any, source: str) -> Any:
    if not right:
        raise BackendError(f'{source}: {name}={value!r:.80} is of the wrong kind; {_REBUILD}')
    return value


def _read_specs(name: str, value: Any, source: str) -> tuple[TensorSpec, ...]:
    _need(isinstance(value, list), name, value, source)
    specs = []
    for item in value:
        whole = isinstance(item, dict) and item.keys() == {'name', 'dtype', 'shape'} and isinstance(item['shape'], list)
        _need(whole and isinstance(item['name'], str) and isinstance(item['dtype'], str), name, item, source)
        _need(all(_is_whole(size) or isinstance(size, str) for size in item['shape']), name, item, source)
        try:
            specs.append(TensorSpec(item['name'], item['dtype'], tuple(item['shape'])))
        except BackendError as error:
            raise BackendError(f'{source}: {name}: {error}; {_REBUILD}') from error
    return tuple(specs)


def card_path(engine: str | os.PathLike[str]) -> Path:
    """Where the card of ``engine`` lies: ``<engine file>.json``."""
    return Path(f'{os.fspath(engine)}.json')


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The file's sha256, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_card(card: EngineCard, engine: str | os.PathLike[str]) -> Path:
    """Write ``card`` beside ``engine``, whole or not at all; return its path."""
    return atomic_write_json(card_path(engine), card.to_dict())


def read_card(engine: str | os.PathLike[str]) -> EngineCard:
    """Read the card beside ``engine``.

    Raises:
        BackendError: There is none, or it is not a whole card.
        FileNotFoundError: Never; a missing card is a BackendError that says what to do.
    """
    path = card_path(engine)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BackendError(f'{path}: {path.stat().st_size} bytes: too large for an engine card; {_REBUILD}')
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BackendError(
            f'{path}: no such file: {engine} has no card, its making was interrupted or it was not made here. '
            'Build it again with tools/deploy.py'
        ) from None
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, a number too long
        raise BackendError(f'{path}: not JSON ({error}); {_REBUILD}') from error
    except OSError as error:
        raise BackendError(f'{path}: cannot be read ({error.strerror}): check its permissions') from error
    return EngineCard.from_dict(values, str(path))


def verify_card(
    engine: str | os.PathLike[str],
    card: EngineCard,
    *,
    backend: str,
    version: str,
    compute_capability: str = '',
) -> None:
    """Refuse an engine that does not belong to its card, to this library or to this GPU.

    Args:
        engine: The engine file.
        card: Its card.
        backend: Name of the backend that is to load it.
        version: Version of that backend's library here.
        compute_capability: Of the GPU here, such as ``8.6``; empty where there is none or none is needed.

    Raises:
        BackendError: Something does not match; says what, and what to do.
    """
    if card.backend != backend:
        raise BackendError(f'{engine}: was built for {card.backend}, not for {backend}: load it with {card.backend}')
    verify_digest(engine, card)
    _verify_version(engine, card, version)
    if compute_capability:
        _verify_gpu(engine, card, compute_capability)


def verify_digest(engine: str | os.PathLike[str], card: EngineCard) -> None:
    """Refuse a file that is not the one its card describes.

    Raises:
        BackendError: Says which, and what to do.
    """
    found = sha256_of(engine)
    if found != card.engine_sha256:
        raise BackendError(
            f'{engine}: is not the file that its card describes: its sha256 is {found[:12]}..., its card says '
            f'{card.engine_sha256[:12]}...: the file is damaged, or another one took its place. Copy engine and card '
            f'together again, or {_REBUILD}.'
        )


def _verify_version(engine: str | os.PathLike[str], card: EngineCard, version: str) -> None:
    # An ONNX file is no engine of one version: any ONNX Runtime that knows its opset runs it.
    if card.backend == 'onnxruntime' or card.backend_version == version:
        return
    built, here = _numbers(card.backend_version), _numbers(version)
    if card.version_compatible and built and built <= here:
        return
    later = ', a later one than this' if card.version_compatible else ''
    raise BackendError(
        f'{engine}: was built with {card.backend} {card.backend_version}{later}, here is {version}. Install that '
        f'version, or {_REBUILD}, or build with version_compatible=True to have it load in later versions.'
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('.') if part.isdecimal())


def _verify_gpu(engine: str | os.PathLike[str], card: EngineCard, here: str) -> None:
    if card.compute_capabilities:
        if here not in card.compute_capabilities:
            targets = ', '.join(card.compute_capabilities)
            raise BackendError(
                f'{engine}: was built for compute capability {targets}, this GPU has {here}: build it with '
                f"compute_capabilities=['{here}'], or with none for a portable engine."
            )
        return
    built = card.compute_capability
    if card.backend == 'tensorrt-rtx' or not built or built == here:  # RTX without targets: one portable engine
        return
    if card.hardware_compatible == 'ampere_plus' and _numbers(built) >= (8, 0) and _numbers(here) >= (8, 0):
        return
    raise BackendError(
        f'{engine}: was built on {card.gpu or "a GPU"} with compute capability {built}, this GPU has {here}: '
        f"{_REBUILD}, or build with hardware_compatible='ampere_plus' for all GPUs from 8.0 on."
    )
