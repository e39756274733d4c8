"""Print a merged config: `python tools/print_config.py CONFIG`; see --help and docs/training.md."""

from mmtrtvit.apis.print_config import main

if __name__ == '__main__':
    main()
