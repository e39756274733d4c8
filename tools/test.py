"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`; see --help and docs/training.md."""

from mmtrtvit.deploy.tools.test import main

if __name__ == '__main__':
    main()
