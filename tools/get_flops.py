"""Count a model: `python tools/get_flops.py CONFIG [--shape H W]`; see --help and docs/training.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('get_flops', sys.argv[1:])
