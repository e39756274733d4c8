_base_ = ['_base_/detection.py', '_base_/tensorrt-fp16.py', '_base_/static-800x1344.py']
