_base_ = ['_base_/instance-seg.py', '_base_/onnxruntime.py', '_base_/static-800x1344.py']
