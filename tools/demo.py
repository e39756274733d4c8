"""Generate, train, evaluate, draw: what `make demo` runs; see --help."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('demo', sys.argv[1:])
