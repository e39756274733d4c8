"""Try TensorRT and TensorRT-RTX on this machine: `python tools/check_tensorrt.py`; see --help."""

from mmtrtvit.deploy.backends.check import main

if __name__ == '__main__':
    main()
