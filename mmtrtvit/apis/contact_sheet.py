"""Panels side by side on one picture, with headings, captions and legends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Legend = Sequence[tuple[str, Sequence[int]]]

_INK, _PAPER, _GREY = (30, 30, 30), (255, 255, 255), (110, 110, 110)
_HEADING, _SMALL = 22, 15  # pixels
_GAP, _WIDE_GAP = 8, 36  # between the panels of a group, between groups


@dataclass(frozen=True)
class Panel:
    """One image of the sheet.

    Attributes:
        image: uint8 ``(H, W, 3)``, RGB.
        caption: A line below it.
    """

    image: Pixels
    caption: str


@dataclass(frozen=True)
class Group:
    """Panels that belong together, and the colours that explain them.

    Attributes:
        panels: From left to right.
        legend: Names and RGB colours, below the panels.
    """

    panels: Sequence[Panel]
    legend: Legend = ()


def fit(height: int, width: int, cell: int) -> tuple[int, int]:
    """Return ``(height, width)`` scaled up or down so that the longer side has ``cell`` pixels."""
    scale = cell / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Return an image in another size, averaged where it shrinks and smooth where it grows."""
    shrinks = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def compose(headings: Sequence[str], groups: Sequence[Group], cell: int, across: int) -> Pixels:
    """Lay groups out in rows.

    Args:
        headings: One for each panel of a group, repeated over every column of groups.
        groups: All with as many panels as there are headings.
        cell: Width of a panel's column, pixels; no image is larger.
        across: Groups in a row.

    Returns:
        uint8 ``(H, W, 3)``, RGB.
    """
    across = max(1, min(across, len(groups)))
    group_width = len(headings) * (cell + _GAP) - _GAP
    width = across * (group_width + _WIDE_GAP) + _WIDE_GAP
    lefts = [_WIDE_GAP + k * (group_width + _WIDE_GAP) for k in range(across)]
    strip = np.full((_WIDE_GAP // 2 + 2 * _HEADING, width, 3), _PAPER, dtype=np.uint8)
    for left in lefts:
        for column, heading in enumerate(headings):
            x = left + column * (cell + _GAP)
            _write(strip, [(x, _WIDE_GAP // 2, heading, _INK)], _HEADING, cell)
    strips = [strip]
    for start in range(0, len(groups), across):
        row = groups[start : start + across]
        strips.append(_row(row, lefts, width, cell, group_width))
    return np.concatenate(strips, axis=0)


def _row(groups: Sequence[Group], lefts: Sequence[int], width: int, cell: int, group_width: int) -> Pixels:
    tallest = [max(panel.image.shape[0] for panel in group.panels) for group in groups]
    legends = [_wrap(group.legend, group_width) for group in groups]
    line = _SMALL + 9
    height = max(top + line * (1 + len(lines)) for top, lines in zip(tallest, legends, strict=True)) + _WIDE_GAP // 2
    strip = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    for group, left, bottom, lines in zip(groups, lefts, tallest, legends, strict=False):
        for column, panel in enumerate(group.panels):
            x = left + column * (cell + _GAP)
            h, w = panel.image.shape[:2]
            strip[:h, x : x + w] = panel.image
            _write(strip, [(x, h + 4, panel.caption, _GREY)], _SMALL, cell)
        for number, entries in enumerate(lines):
            y = bottom + 4 + (1 + number) * line
            for x, _, colour in entries:
                cv2.rectangle(strip, (left + x, y + 3), (left + x + _SMALL, y + 3 + _SMALL - 2), tuple(colour), -1)
            _write(strip, [(left + x + _SMALL + 6, y, name, _INK) for x, name, _ in entries], _SMALL, group_width)
    return strip


def _wrap(legend: Legend, width: int) -> list[list[tuple[int, str, Sequence[int]]]]:
    """Break a legend into lines of ``(x, name, colour)``."""
    lines: list[list[tuple[int, str, Sequence[int]]]] = []
    x = width
    for name, colour in legend:
        needed = _SMALL + 6 + round(_font(_SMALL).getlength(name)) + 18
        if not lines or x + needed > width:
            lines.append([])
            x = 0
        lines[-1].append((x, name, [int(part) for part in colour]))
        x += needed
    return lines


def _write(strip: Pixels, texts: Sequence[tuple[int, int, str, tuple[int, int, int]]], size: int, width: int) -> None:
    """Write ``(x, y, text, colour)`` into ``strip`` in place, each cut off where it would leave ``width`` pixels."""
    image = Image.fromarray(strip)
    pen = ImageDraw.Draw(image)
    for x, y, text, colour in texts:
        pen.text((x, y), _shorten(text, size, width), fill=colour, font=_font(size))
    strip[:] = np.asarray(image)


def _shorten(text: str, size: int, width: int) -> str:
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '…') > width:
        text = text[:-1]
    return text + '…'


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib: the same letters on every machine, and not ASCII alone as in OpenCV.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'), size)
