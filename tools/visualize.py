"""Draw detections or segmentations beside the ground truth: `python tools/visualize.py CONFIG CHECKPOINT`."""

import sys

from mmtrtvit.__main__ import run

if __name__ == '__main__':
    run('visualize', sys.argv[1:])
