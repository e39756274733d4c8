_base_ = ['_base_/detection.py', '_base_/tensorrt-rtx-int8.py', '_base_/static-640x640.py']
