"""Blocks alone, the guidelines, a search: `python tools/analyze_blocks.py [--guidelines | --search]`; see --help."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('analyze_blocks', sys.argv[1:])
