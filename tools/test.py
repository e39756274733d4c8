"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`; see --help and docs/training.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('test', sys.argv[1:])
