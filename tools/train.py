"""Train a model: `python tools/train.py CONFIG`; see --help and docs/training.md."""

from mmtrtvit.apis.train import main

if __name__ == '__main__':
    main()
