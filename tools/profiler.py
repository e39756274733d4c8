"""Profile: `python tools/profiler.py DEPLOY_CFG MODEL_CFG IMAGE_DIR --model FILE`; see docs/deployment.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('profiler', sys.argv[1:])
