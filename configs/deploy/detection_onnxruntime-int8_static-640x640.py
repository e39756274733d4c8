_base_ = ['_base_/detection.py', '_base_/onnxruntime-int8.py', '_base_/static-640x640.py']
