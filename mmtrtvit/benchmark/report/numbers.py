"""How numbers and other people's text are written, the same in Markdown, on the page and in the pictures."""

from __future__ import annotations

import math
import re
import unicodedata

__all__ = ['clean', 'percent', 'shorten', 'significant', 'slug']

MISSING = '-'
"""Stands in a table where there is no value."""


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, never with an exponent; ``-`` for none.

    Example:
        >>> significant(1234.5), significant(12.345), significant(0.012345)
        ('1234', '12.3', '0.0123')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return '0'
    magnitude = math.floor(math.log10(abs(float(f'{value:.{digits - 1}e}'))))
    return f'{value:.{max(0, digits - 1 - magnitude)}f}'


def percent(share: float | None) -> str:
    """Write a share as whole per cent; ``-`` for none."""
    return MISSING if share is None else f'{100 * share:.0f} %'


def clean(text: object) -> str:
    """Put text on one line, without characters that steer a terminal, a browser or the direction of writing."""
    kept = (letter if unicodedata.category(letter)[0] != 'C' else ' ' for letter in str(text))
    return ' '.join(''.join(kept).split())


def shorten(text: object, length: int) -> str:
    """Clean a text and cut it off where it is longer."""
    line = clean(text)
    return line if len(line) <= length else line[: length - 1].rstrip() + '…'


def slug(text: object, length: int = 120) -> str:
    """Make a file name or an id of a text: small letters, digits, dots and hyphens."""
    return '-'.join(re.findall(r'[a-z0-9._]+', str(text).lower()))[:length].strip('-.') or 'unnamed'
