_base_ = ['_base_/detection.py', '_base_/onnxruntime-fp16.py', '_base_/static-800x1344.py']
