"""Benchmark: `python tools/benchmark.py [--models ...]`, `python tools/benchmark.py report FILES...`; see --help."""

from mmtrtvit.benchmark.tools.benchmark import main

if __name__ == '__main__':
    main()
