"""Draw detections or segmentations beside the ground truth: `python tools/visualize.py CONFIG CHECKPOINT`."""

from mmtrtvit.apis.visualize import main

if __name__ == '__main__':
    main()
