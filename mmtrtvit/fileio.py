"""What is written to disk is written beside and renamed: the one helper for it.

A reader sees the old content or the whole new content, never half of it, whatever interrupts the writer: an
exception, Ctrl-C, ``kill -9``, a full disk. The temporary name starts with a dot, stands in the folder of the
target (a rename is only atomic within one file system) and is locked while its writer lives, so that the next
writer of the same target can tell leftovers of a killed process from the work of a living one, and removes them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    'atomic_dir',
    'atomic_path',
    'atomic_write_bytes',
    'atomic_write_json',
    'atomic_write_text',
    'make_folder',
    'way_out',
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAY_OUT = {
    errno.ENOSPC: 'the disk is full: free some space or choose another place',
    errno.EDQUOT: 'your disk quota is used up: free some space or choose another place',
    errno.EACCES: 'you may not write there: choose a folder of your own or change its permissions',
    errno.EPERM: 'you may not write there: choose a folder of your own or change its permissions',
    errno.EROFS: 'that file system is read-only: choose another place',
    errno.ENOTDIR: 'a part of that path is a file, not a folder: choose another place',
    errno.EEXIST: 'a part of that path is a file, not a folder: choose another place',
    errno.EISDIR: 'that is a folder: give the name of a file in it',
    errno.ENAMETOOLONG: 'the name is too long: choose a shorter one',
    errno.EBUSY: 'it is in use (a mount point?): choose a folder inside it',
}


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> Path:
    """Write ``data`` to ``path``, whole or not at all.

    Args:
        path: The file to make or to replace; missing folders are made, a symbolic link is followed.
        data: The new content.

    Returns:
        ``path``.

    Raises:
        OSError: The content could not be written; names the path and the way out, and ``path`` is as it was.
    """
    with atomic_path(path) as partial:
        partial.write_bytes(data)
    return Path(path)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8 with its line ends as they are; see :func:`atomic_write_bytes`."""
    return atomic_write_bytes(path, text.encode('utf-8'))


def atomic_write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> Path:
    """Write ``value`` to ``path`` as JSON that any parser reads; see :func:`atomic_write_bytes`.

    Args:
        path: The file to make or to replace.
        value: What :func:`json.dumps` takes.
        indent: Spaces a level; ``None`` writes everything on one line without spaces, for large files.

    Raises:
        ValueError: ``value`` holds NaN or infinity, which JSON does not have.
        OSError: See :func:`atomic_write_bytes`.
    """
    separators = (',', ':') if indent is None else None
    try:
        text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f'{path}: {error}: JSON has no NaN or infinity, write null instead') from error
    return atomic_write_text(path, text + '\n')


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary file name for a writer that wants a name, and rename it to ``path`` at the end.

    The temporary file exists, is empty, and has the suffix of ``path``, which many writers look at. Anything the
    writer lays beside it under another name stays there: for several files, use :func:`atomic_dir`.

    Args:
        path: The file to make or to replace; missing folders are made, a symbolic link is followed.

    Yields:
        The name to write to.

    Raises:
        OSError: The file could not be written; names the path and the way out, and ``path`` is as it was. Other
            exceptions of the block pass through; either way the temporary file is gone.

    Example:
        >>> with atomic_path('work_dirs/last.pth') as partial:
        ...     torch.save(state, partial)
    """
    target = Path(os.path.realpath(path))
    with _explained(path):
        mode = _mode_of_file(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        partial, lock = _claim(target, folder=False)
    try:
        with _explained(path, only=_FULL):
            yield partial
        with _explained(path):
            _flush(partial)
            if mode is not None:
                partial.chmod(mode)
            partial.replace(target)
            _flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def atomic_dir(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Lend an empty temporary folder, and rename it to ``path`` when the block has filled it.

    Args:
        path: The folder to make; missing parents are made. It may exist and be empty.
        replace: Whether a folder with something in it may be replaced. It is moved aside and removed only after
            the new one is complete; a kill between the two renames leaves no ``path`` at all.

    Yields:
        The folder to fill.

    Raises:
        FileExistsError: ``path`` has something in it and ``replace`` is false; nothing was written.
        OSError: The folder could not be written; names the path and the way out. Other exceptions of the block
            pass through; either way the temporary folder is gone and ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    with _explained(path):
        if target.exists() and not target.is_dir():
            raise FileExistsError(errno.ENOTDIR, 'there is a file of that name')
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        full = target.exists() and any(target.iterdir())
        if full and not replace:
            raise FileExistsError(f'{path} exists and is not empty: remove it or choose another place')
        partial, lock = _claim(target, folder=True)
    try:
        with _explained(path, only=_FULL):
            yield partial
        with _explained(path):
            for file in (partial, *partial.rglob('*')):
                _flush(file)
            _swap_in(partial, target, full)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it where they are missing.

    Raises:
        OSError: It cannot be made; names the path and the way out.
    """
    with _explained(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def _swap_in(partial: Path, target: Path, full: bool) -> None:
    """Rename ``partial`` to ``target``; a folder that is there steps aside first and is removed last."""
    if not full:
        partial.replace(target)
        _flush(target.parent)
        return
    old = _partial_name(target, folder=True)
    target.replace(old)
    try:
        partial.replace(target)
    except OSError:
        old.replace(target)
        raise
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _mode_of_file(target: Path) -> int | None:
    """Return the permissions of the file that is to be replaced, or None where there is none."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):  # renaming over /dev/null would destroy the device
        raise OSError(errno.EINVAL, 'it is neither a file nor a new name')
    return stat.S_IMODE(found.st_mode)


def _partial_prefix(target: Path) -> str:
    # 40 characters of the name are for people; file systems allow 255 bytes in all.
    return f'.{target.name[:40]}.partial-'


def _partial_name(target: Path, folder: bool) -> Path:
    suffix = '' if folder else target.suffix[:20]
    return target.parent / f'{_partial_prefix(target)}{secrets.token_hex(4)}{suffix}'


def _claim(target: Path, folder: bool) -> tuple[Path, int]:
    """Make a temporary file or folder beside ``target`` and lock it; return it and the descriptor of the lock."""
    while True:
        partial = _partial_name(target, folder)
        if folder:
            partial.mkdir()
            lock = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        else:
            lock = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if not _lock(lock, fcntl.LOCK_EX):
            return partial, lock  # a file system without locks: leftovers will stay, nothing else changes
        if partial.exists():
            return partial, lock
        os.close(lock)  # another process took it for a leftover between its making and its lock


def _remove_leftovers(target: Path) -> None:
    """Remove what killed writers of ``target`` left: temporary names that nobody holds a lock on."""
    prefix = _partial_prefix(target)
    for leftover in target.parent.iterdir():
        if not leftover.name.startswith(prefix):
            continue
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        try:
            if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        return False
    return True


def _flush(path: Path) -> None:
    """Have the kernel put ``path`` on the disk, so that a power cut after the rename finds the content there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not every file system syncs folders
            raise
    finally:
        os.close(descriptor)


def way_out(number: int | None) -> str:
    """What to do about an operating system's error where a place cannot be written to; '' for any other error.

    Args:
        number: The error number. One that reading may meet too says nothing.
    """
    return _WAY_OUT[number] if number in (errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG) else ''


@contextmanager
def _explained(path: str | os.PathLike[str], only: tuple[int, ...] = ()) -> Iterator[None]:
    """Give an operating system's error the path that was asked for and a way out.

    Args:
        path: The path as the caller wrote it.
        only: The error numbers to explain; empty for all. Inside a caller's block, other errors are his own.
    """
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None or (only and number not in only):
            raise
        way_out = _WAY_OUT.get(number, 'choose another place')
        text = f'cannot write {os.fspath(path)}: {error.strerror}; {way_out}. Nothing was left half-written.'
        raise OSError(number, text) from error
