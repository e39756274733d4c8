_base_ = ['_base_/detection.py', '_base_/tensorrt-int8.py', '_base_/static-800x1344.py']
