"""Benchmark: `python tools/benchmark.py [--models ...]`, `python tools/benchmark.py report FILES...`; see --help."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('benchmark', sys.argv[1:])
