"""The error that is the user's to put right; every floor may raise it, the tools print it as one line."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the message names the file or value and the way out."""
