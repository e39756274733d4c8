"""A killed or disk-full training never loses its last good checkpoint.

For mmengine 0.10.7, which

* writes a checkpoint straight to its final name, so that ``kill -9`` or a full disk leaves half a file there;
* removes the old checkpoints (``max_keep_ckpts``) and the old best one *before* it writes the new one;
* rewrites ``last_checkpoint`` in place, so that for a moment, or for ever on a full disk, it is empty.

What is done: a checkpoint is written beside and renamed, ``last_checkpoint`` likewise and after it, and what is to
be removed is removed last.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.runner
import mmengine.runner.checkpoint as mmengine_checkpoint
import mmengine.runner.runner as mmengine_runner
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from mmtrtvit.fileio import atomic_write_bytes, atomic_write_text


class _RemoveLater:
    """A file backend that notes what it is told to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.pending: list[tuple[Callable[[str], None], str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, filepath: str) -> None:
        self.pending.append((self._backend.remove, filepath))

    def rmtree(self, dir_path: str) -> None:
        self.pending.append((self._backend.rmtree, dir_path))


@contextmanager
def _removals_last(hook: CheckpointHook) -> Iterator[None]:
    """Let ``hook`` remove files only after the block, and nothing at all when the block fails."""
    backend, later = hook.file_backend, _RemoveLater(hook.file_backend)
    hook.file_backend = later
    try:
        yield
    finally:
        hook.file_backend = backend
    # a resumed run may write the best checkpoint again under its old name
    current = {str(hook.last_ckpt), str(getattr(hook, 'best_ckpt_path', None))}
    current.update(str(path) for path in getattr(hook, 'best_ckpt_path_dict', {}).values())
    for remove, path in later.pending:
        if str(path) not in current:
            remove(path)


def _after_saving(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def wrapped(self: CheckpointHook, *args: Any, **kwargs: Any) -> None:
        with _removals_last(self):
            method(self, *args, **kwargs)

    return wrapped


def _save_checkpoint_with_step(self: CheckpointHook, runner: Any, step: int, meta: dict[str, Any]) -> None:
    """As mmengine's, with the removals after the save and ``last_checkpoint`` replaced in one step."""
    outdated: list[int] = []
    if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            outdated.append(self.keep_ckpt_ids.popleft())
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    filename = self.filename_tmpl.format(step)
    self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
    runner.message_hub.update_info('last_ckpt', self.last_ckpt)
    runner.save_checkpoint(
        self.out_dir,
        filename,
        self.file_client_args,
        save_optimizer=self.save_optimizer,
        save_param_scheduler=self.save_param_scheduler,
        meta=meta,
        by_epoch=self.by_epoch,
        backend_args=self.backend_args,
        **self.args,
    )
    if not is_main_process():
        return
    atomic_write_text(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt))
    for old in outdated:
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed saves a folder
            self.file_backend.rmtree(path)


def install() -> None:
    """Replace mmengine's ``save_checkpoint`` and the two places where its hook removes before it saves."""
    original = mmengine_checkpoint.save_checkpoint
    if getattr(original, '_mmtrtvit', False):
        return

    @functools.wraps(original)
    def save_checkpoint(
        checkpoint: dict[str, Any],
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        if '://' in str(filename) or file_client_args or backend_args:  # not this machine's disk
            original(checkpoint, filename, file_client_args, backend_args)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with buffer.getbuffer() as content:  # not getvalue(): that is a second copy in memory
            atomic_write_bytes(filename, content)

    save_checkpoint._mmtrtvit = True  # type: ignore[attr-defined]  # marks the function as ours
    for module in (mmengine_checkpoint, mmengine_runner, mmengine.runner):
        module.save_checkpoint = save_checkpoint
    CheckpointHook._save_checkpoint_with_step = _save_checkpoint_with_step
    CheckpointHook._save_best_checkpoint = _after_saving(CheckpointHook._save_best_checkpoint)
