_base_ = ['_base_/instance-seg.py', '_base_/tensorrt-int8.py', '_base_/static-640x640.py']
