"""Deploy: `python tools/deploy.py DEPLOY_CFG MODEL_CFG CHECKPOINT IMG`; see --help and docs/deployment.md."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('deploy', sys.argv[1:])
