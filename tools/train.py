"""Train a model: `python tools/train.py CONFIG`; see --help and docs/training.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('train', sys.argv[1:])
