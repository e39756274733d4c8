"""A tiny detector in a folder of its own, and tools that must fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmtrtvit.apis import errors
from tests.test_apis.common import Tool
from tests.tiny import make_detector


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On images of 64 pixels threads only wait for each other; and errors are shown as users see them."""
    monkeypatch.delenv(errors.DEBUG_VARIABLE, raising=False)
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # mmengine's loggers outlive the captured streams
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return make_detector(tmp_path).name


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a tool that must fail; returns its one line."""

    def run(main: Callable[[list[str]], None], *argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        assert stop.value.code == 2
        text = capsys.readouterr().err
        assert 'Traceback' not in text
        last = text.strip().splitlines()[-1]
        assert last.startswith('error: ')
        return last.removeprefix('error: ')

    return run
