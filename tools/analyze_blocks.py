"""Blocks alone, the guidelines, a search: `python tools/analyze_blocks.py [--guidelines | --search]`; see --help."""

from mmtrtvit.benchmark.tools.analyze_blocks import main

if __name__ == '__main__':
    main()
