_base_ = ['_base_/classification.py', '_base_/onnxruntime.py', '_base_/static-224x224.py']
