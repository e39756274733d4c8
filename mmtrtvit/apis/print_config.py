"""Print a config with everything it inherits and every option merged in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmtrtvit.apis.config import add_config_arguments, load_config
from mmtrtvit.apis.errors import run_tool


def print_config(argv: Sequence[str]) -> None:
    """Print as the command line says; the output is a config file itself."""
    parser = argparse.ArgumentParser(prog='print_config.py', allow_abbrev=False, description=__doc__)
    add_config_arguments(parser)
    args = parser.parse_args(argv)
    print(load_config(args.config, args.cfg_options).pretty_text)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(print_config, argv)
