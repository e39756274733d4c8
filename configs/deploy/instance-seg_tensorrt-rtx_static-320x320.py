_base_ = ['_base_/instance-seg.py', '_base_/tensorrt-rtx.py', '_base_/static-320x320.py']
