"""A real browser for tests: Chromium without a window, over its debugging pipe; nothing to install beside it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


class Browser:
    """One page."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer, self.buffer, self.number = reader, writer, b'', 0
        self.session: dict[str, str] = {}
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        found = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self.session = {'sessionId': found['sessionId']}
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what the page logs meanwhile is kept."""
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': parameters, **self.session}
        os.write(self.writer, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self.number:
                assert 'error' not in answer, answer
                return answer['result']

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self.buffer:
            data = os.read(self.reader, 1 << 16)
            assert data, 'the browser has ended'
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\0', 1)
        answer = json.loads(line)
        event, parameters = answer.get('method'), answer.get('params', {})
        if event in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'):
            self.messages.append(json.dumps(parameters)[:500])
        if event == 'Network.requestWillBeSent':
            self.requests.append(parameters['request']['url'])
        return answer

    def open(self, page: Path, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Load a file as wide and as high a window shows it."""
        scheme = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        self.call('Emulation.setEmulatedMedia', features=scheme)
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setDeviceMetricsOverride', **size)
        self.call('Page.navigate', url=page.resolve().as_uri())
        limit = time.monotonic() + 30
        while self.evaluate('document.readyState') != 'complete' or self.evaluate('location.protocol') != 'file:':
            assert time.monotonic() < limit, 'the page does not load'
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def press(self, key: str, text: str = '') -> None:
        """Press a key of the keyboard, such as ``Tab`` or ``Enter``."""
        codes = {'Tab': 9, 'Enter': 13, 'Escape': 27}
        key_ = dict(key=key, windowsVirtualKeyCode=codes.get(key, ord(text or key[0])))
        self.call('Input.dispatchKeyEvent', type='keyDown', text=text, **key_)
        self.call('Input.dispatchKeyEvent', type='keyUp', **key_)

    def hover(self, selector: str, number: int = 0) -> None:
        """Move the mouse to the middle of an element."""
        found = f'document.querySelectorAll({json.dumps(selector)})[{number}]'
        self.evaluate(f'{found}.scrollIntoView({{block: "center"}})')
        time.sleep(0.1)
        box = json.loads(self.evaluate(f'JSON.stringify({found}.getBoundingClientRect())'))
        x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
        self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

    def shoot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))


@contextmanager
def browse(folder: Path) -> Iterator[Browser]:
    """Start the browser with a profile of its own in ``folder``, and end it."""
    assert PROGRAM is not None
    to_browser, writer = os.pipe()
    reader, from_browser = os.pipe()
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
             '--disable-background-networking', '--remote-debugging-pipe', f'--user-data-dir={folder}']  # fmt: skip
    # the browser reads descriptor 3 and writes descriptor 4
    script = f'exec 3<&{to_browser} 4>&{from_browser} && exec "$@"'
    process = subprocess.Popen(
        ['bash', '-c', script, 'browser', PROGRAM, *flags],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(reader, writer)
    finally:
        os.close(writer)
        os.close(reader)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
