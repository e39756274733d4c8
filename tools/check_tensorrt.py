"""Try TensorRT and TensorRT-RTX on this machine: `python tools/check_tensorrt.py`; see --help."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('check_tensorrt', sys.argv[1:])
