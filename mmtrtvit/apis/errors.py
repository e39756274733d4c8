"""A user's mistake ends in one clear line, a defect of ours in a traceback."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmtrtvit.errors import UserError
from mmtrtvit.fileio import way_out

__all__ = ['DEBUG_VARIABLE', 'EXIT_STATUS', 'UserError', 'debugging', 'explain', 'near', 'run_tool']

#: Set to 1 to get the traceback of a user error as well, as ``--debug`` does.
DEBUG_VARIABLE = 'MMTRTVIT_DEBUG'

#: Exit status of a user error, the one argparse uses for a misspelt option.
EXIT_STATUS = 2

_NO_MEMORY = ('out of memory', "can't allocate memory", 'Insufficient memory', 'Storage size calculation overflowed')
_NO_GPU = ('No CUDA GPUs are available', 'Found no NVIDIA driver', 'not compiled with CUDA', 'invalid device ordinal')
_TOO_BIG = 'make the images smaller or set test_dataloader.batch_size lower'
_TOO_BIG_TO_TRAIN = 'set train_dataloader.batch_size lower, make the images smaller, or try --amp'

#: What PyTorch, numpy and OpenMMLab say of parts that do not fit -> what to look at.
_MISFITS = (
    (
        r'Target -?\d+ is out of bounds',
        'the data has a label that the model has no class for: look at num_classes of the heads, ignore_index and '
        'reduce_zero_label, and whether the masks are of this data set',
    ),
    (
        r'expected input\[.*\] to have \d+ channels, but got|mat1 and mat2 shapes cannot be multiplied',
        'it gets another number of channels than it was made for: set its in_channels to what the part before it '
        'gives, or the image to the size it was made for',
    ),
    (
        r"Kernel size can't be greater than actual input size|Expected more than 1 spatial element|"
        r'Output size is too small',
        'the image is too small for the model: make it larger',
    ),
    (
        r'Expected more than 1 value per channel when training',
        'BatchNorm cannot learn from one value: set train_dataloader.batch_size to 2 or more, and its drop_last=True '
        'if the last batch is of one image, or make the images larger',
    ),
    (r'Seed must be between 0 and', 'randomness.seed must be from 0 to 4294967295'),
    (r'Top-\d+ accuracy is unavailable', 'topk asks for more classes than there are'),
    (r'expected weight to be at least 1 at dimension 0', 'it is of no channels at all: set its channels'),
)
#: The same of what any code says that has a defect: raised within a library's model, it is most likely its config's.
_MISFITS_WITHIN = (
    (r"'(ConfigDict|NoneType)' object (has no attribute|is not)", 'a setting that it needs is not in its config'),
    (
        r'(tuple|list) index out of range',
        'it asks for a feature map that the part before it does not give: look at in_index, out_indices, start_level '
        'and the number of in_channels',
    ),
    (r'^assert ', 'its config does not fit what it gets'),
)
_LIBRARIES = ('mmdet.models', 'mmseg.models', 'mmpretrain.models')
_WITHOUT_DOWNLOAD = (
    'For what a backbone begins with: --cfg-options model.backbone.init_cfg.checkpoint=PATH, '
    'or for random weights model.backbone.init_cfg=None'
)


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``'; did you mean a, b?'``, or nothing when no known word is near."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f'; did you mean {" or ".join(found)}?' if found else ''


def debugging(argv: Sequence[str]) -> bool:
    """Whether tracebacks are wanted."""
    return '--debug' in argv or os.environ.get(DEBUG_VARIABLE, '') not in ('', '0')


def run_tool(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None, *, going_on: str = '') -> None:
    """Run a tool's ``main(argv)``; print a user error as one message and exit with status 2.

    Args:
        main: The tool, called with the command line without the program's name.
        argv: The command line; ``sys.argv[1:]`` when None.
        going_on: Of a tool that trains, how an interrupted training goes on; empty for one that does not.

    Raises:
        SystemExit: Status 2 after a user error, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if debugging(arguments):
        main(arguments)
        return
    try:
        main(arguments)
    except KeyboardInterrupt:
        print(f'interrupted; {going_on}' if going_on else 'interrupted', file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else explain(error, going_on)
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        raise SystemExit(EXIT_STATUS) from None


def explain(error: Exception, going_on: str = '') -> str | None:
    """What a known kind of failure means to a user; None for one that may be a defect of ours.

    Args:
        error: What was raised.
        going_on: As for :func:`run_tool`.
    """
    from mmtrtvit.compat.checkpoint import CheckpointError
    from mmtrtvit.compat.mmcv_ext.missing import MissingOpError
    from mmtrtvit.models.warm_start import WarmStartError

    text = _own_words(error)
    if isinstance(error, CheckpointError):
        return f'{text}. {_WITHOUT_DOWNLOAD}' if 'cannot be downloaded' in text else text
    if isinstance(error, MissingOpError):
        return text
    if isinstance(error, WarmStartError):
        return f'{text}. {_WITHOUT_DOWNLOAD}'
    if any(words in text for words in _NO_GPU):
        return f'a GPU was asked for that this machine does not have or cannot use: {_line(text)}'
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        text = _line(text) if 'out of memory' in text else f'out of memory: {_line(text)}'
        return f'{text}; {_TOO_BIG_TO_TRAIN if going_on else _TOO_BIG}'
    if 'No space left on device' in text:
        text = _line(text)
        if 'free some space' not in text:  # as mmtrtvit.fileio says by itself
            text = f'the disk is full: {text}; free some space'
        return f'{text.rstrip(".")}. The last checkpoint is whole: {going_on}' if going_on else text
    if isinstance(error, json.JSONDecodeError):
        return f'an annotation file is not JSON: {text}'
    if 'failed to load image' in text or 'cv2' in type(error).__module__:
        return f'an image is damaged or not an image: {_line(text)}; remove it from the annotations or replace it'
    if isinstance(error, OSError):
        hint = way_out(error.errno)
        return f'{_line(text)}; {hint}' if hint and hint not in text else _line(text)
    return _misfit(error, text) or _while_building(error, text)


def _misfit(error: Exception, text: str) -> str | None:
    """The message of an error within a model whose parts, or whose data, do not fit each other."""
    part, within = _part(error)
    for words, meaning in (*_MISFITS, *(_MISFITS_WITHIN if within else ())):
        if re.search(words, text):
            return f'{part}{meaning} [{_line(text)}] (--debug for more)'
    return None


def _part(error: Exception) -> tuple[str, bool]:
    """``'FPN: '``: the innermost part of an OpenMMLab model that was at work; whether it raised the error itself."""
    name, within, trace = '', False, error.__traceback__
    while trace is not None:
        frame, owner = trace.tb_frame, trace.tb_frame.f_locals.get('self')
        within = str(frame.f_globals.get('__name__')).startswith(_LIBRARIES)
        if type(owner).__module__.startswith((*_LIBRARIES, 'mmtrtvit.models')):
            name = f'{type(owner).__name__}: '
        trace = trace.tb_next
    return name, within


def _own_words(error: Exception) -> str:
    """The message; from a loading process, which sends its whole traceback, the last line of it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if 'in DataLoader worker process' in text:
        text = re.sub(r'^[\w.]+: ', '', text.strip().splitlines()[-1])
    if isinstance(error, AssertionError) and not text:
        frames = traceback.extract_tb(error.__traceback__)
        text = (frames[-1].line or '') if frames else ''  # the condition
    return text.strip() or type(error).__name__


def _line(text: str) -> str:
    return text.splitlines()[0]


def _while_building(error: Exception, text: str) -> str | None:
    """The message of an error that arose while an object was built from the config."""
    if isinstance(error, KeyError) and 'is not in the' in text and 'registry' in text:
        return _unknown_type(text)
    built, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == 'build_from_cfg':
            built = trace.tb_frame.f_locals.get('obj_cls', built)
        trace = trace.tb_next
    if built is None:
        return None
    if 'need at least one array to concatenate' in text:  # how mmengine's BaseDataset fails on an empty list
        text = 'the data set is empty: every image is filtered out, or classes and folders are of another data set'
    return f'{getattr(built, "__name__", built)} cannot be built as the config says: {text} (--debug for more)'


def _unknown_type(text: str) -> str:
    """The sentence of mmengine about a type that is not registered, with the nearest names that are."""
    match = re.match(r'(\S+) is not in the (\S+?)::(.+?) registry', text)
    if match is None:
        return _line(text)
    name, scope, kind = match.groups()
    return f"type='{name}': no such {kind} in {scope}{near(name.split('.')[-1], _registered(kind))}"


def _registered(kind: str) -> list[str]:
    """All names of the registries of one kind, those of the libraries included."""
    from mmengine import registry as root

    names: list[str] = []
    waiting: list[Any] = [value for value in vars(root).values() if isinstance(value, root.Registry)]
    waiting = [value for value in waiting if value.name == kind]
    while waiting:
        registry = waiting.pop()
        names += registry.module_dict
        waiting += registry.children.values()
    return names
