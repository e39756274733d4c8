_base_ = ['_base_/detection.py', '_base_/tensorrt.py', '_base_/static-640x640.py']
