"""Print a merged config: `python tools/print_config.py CONFIG`; see --help and docs/training.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('print_config', sys.argv[1:])
