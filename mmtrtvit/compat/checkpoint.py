"""Checkpoints of mmengine under PyTorch's ``weights_only`` protection, which stays on.

For mmengine 0.10.7 on torch >= 2.6. What breaks:

* ``torch.load`` refuses mmengine's own training checkpoints: their message hub holds ``HistoryBuffer`` objects
  with numpy arrays, which in turn pickle their statistics methods as ``getattr(HistoryBuffer, 'mean')``.
* A refused, truncated or foreign file gives a page of PyTorch's advice that does not say which file it was.
* A checkpoint from a URL goes through ``torch.hub``, whose protection is *off* unless asked for.

What is done: the few classes needed are allowed, ``getattr`` only for those four methods; every failure becomes a
:class:`CheckpointError` of one message; downloads are protected like files.
"""

from __future__ import annotations

import functools
import pickle
import re
import urllib.error
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy import dtypes
from numpy._core import multiarray

_STATISTICS = ('min', 'max', 'current', 'mean')


class CheckpointError(RuntimeError):
    """A checkpoint that cannot or must not be read; the message names the file, the reason and the way out."""


def _history_statistic(owner: object, name: str) -> Any:
    """Stand in for ``getattr`` inside a checkpoint: the statistics methods of ``HistoryBuffer`` and nothing else.

    Raises:
        pickle.UnpicklingError: Anything else was asked for; with the real ``getattr`` a file could reach
            ``__globals__`` and from there any code.
    """
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r}) was not an allowed global')


#: Everything allowed besides PyTorch's own list: data without behaviour, and the one class of mmengine.
#: Pickles written under numpy 1.x name ``numpy.core``, which numpy 2 calls ``numpy._core``.
SAFE_GLOBALS: tuple[Any, ...] = (
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    (multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
    (multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
    (multiarray.scalar, 'numpy._core.multiarray.scalar'),
    (multiarray.scalar, 'numpy.core.multiarray.scalar'),
    # metric values and logs, counts, palettes and masks
    dtypes.Float64DType,
    dtypes.Float32DType,
    dtypes.Int64DType,
    dtypes.Int32DType,
    dtypes.UInt8DType,
    dtypes.BoolDType,
)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _forbidden(filename: str, error: BaseException) -> list[str]:
    """The classes and functions a checkpoint asks for that are not allowed, found without running any of it."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(filename)
    except Exception:  # not a zip file, or its pickle is cut: the error itself names the first one
        found = []
    if not found:
        found = re.findall(r'GLOBAL (.+?) (?:was not|whose module)', str(error))
    return sorted(set(found))


def explain(filename: str, error: Exception) -> CheckpointError:
    """The readable form of what ``torch.load`` raised on ``filename``."""
    forbidden = _forbidden(filename, error) if isinstance(error, pickle.UnpicklingError) else []
    if forbidden:
        return CheckpointError(
            f'{filename}: refused, its pickle asks for {", ".join(forbidden)}, which could run any code and is not '
            'needed for weights. Get it from its author as weights alone, saved where the model was trained: '
            "torch.save({'state_dict': model.state_dict()}, 'weights.pth')"
        )
    path = Path(filename).expanduser()
    size = f' ({path.stat().st_size} bytes)' if path.is_file() else ''
    if path.suffix in ('.onnx', '.engine'):
        return CheckpointError(
            f'{filename}{size}: a deployed model, not a checkpoint: tools/test.py and tools/profiler.py take it; '
            'everything else wants the .pth that it was made from'
        )
    reason = f'{type(error).__name__}: {_first_line(error)}'
    if 'weights_only' in reason or 'Weights only' in reason:  # advice to switch the protection off, which helps nobody
        reason = 'its pickle cannot be read'
    return CheckpointError(
        f'{filename}{size}: not a checkpoint that PyTorch can read: truncated, damaged or another kind of file '
        f'[{reason}]. Copy or download it again, or take an earlier checkpoint'
    )


def install() -> None:
    """Allow what mmengine's checkpoints need and make every loader of mmengine say what is wrong."""
    torch.serialization.add_safe_globals(list(SAFE_GLOBALS))
    # torch.hub.load_state_dict_from_url passes weights_only=False on unless told otherwise
    mmengine_checkpoint.load_url = functools.partial(torch.hub.load_state_dict_from_url, weights_only=True)

    loader = mmengine_checkpoint.CheckpointLoader
    original = loader.load_checkpoint
    if getattr(original, '_mmtrtvit', False):
        return

    # one door for files, URLs and every other scheme
    def load_checkpoint(cls: type, filename: str, map_location: Any = None, logger: Any = 'current') -> dict[str, Any]:
        try:
            checkpoint = original(filename, map_location, logger)
        except urllib.error.URLError as error:  # an HTTPError is one too
            raise CheckpointError(
                f'{filename}: cannot be downloaded ({error.reason}); download it where there is a network and give the '
                'file in place of the URL'
            ) from error
        except (OSError, MemoryError, ImportError, torch.OutOfMemoryError):
            raise  # the file is not there, the network is down, ...: these say so themselves
        except Exception as error:
            raise explain(filename, error) from error
        if not isinstance(checkpoint, dict):
            raise CheckpointError(
                f'{filename}: holds a {type(checkpoint).__name__}, not a checkpoint; expected a dict with state_dict'
            )
        return checkpoint

    load_checkpoint._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    loader.load_checkpoint = classmethod(load_checkpoint)
