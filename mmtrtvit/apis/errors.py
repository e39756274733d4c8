"""A user's mistake ends in one clear line, a defect of ours in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

#: Set to 1 to get the traceback of a user error as well, as ``--debug`` does.
DEBUG_VARIABLE = 'MMTRTVIT_DEBUG'

#: Exit status of a user error, the one argparse uses for a misspelt option.
EXIT_STATUS = 2


class UserError(Exception):
    """Something the user can put right; the message names the file or value and the way out."""


def debugging(argv: Sequence[str]) -> bool:
    """Whether tracebacks are wanted."""
    return '--debug' in argv or os.environ.get(DEBUG_VARIABLE, '') not in ('', '0')


def run_tool(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Run a tool's ``main(argv)``; print a user error as one message and exit with status 2.

    Args:
        main: The tool, called with the command line without the program's name.
        argv: The command line; ``sys.argv[1:]`` when None.

    Raises:
        SystemExit: Status 2 after a user error, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        main(arguments)
    except KeyboardInterrupt:
        if debugging(arguments):
            raise
        print('interrupted', file=sys.stderr)
        raise SystemExit(130) from None
    except UserError as error:
        if debugging(arguments):
            raise
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(EXIT_STATUS) from None
