"""Count a model: `python tools/get_flops.py CONFIG [--shape H W]`; see --help and docs/training.md."""

from mmtrtvit.apis.flops import main

if __name__ == '__main__':
    main()
