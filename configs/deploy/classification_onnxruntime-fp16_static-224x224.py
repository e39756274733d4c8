_base_ = ['_base_/classification.py', '_base_/onnxruntime-fp16.py', '_base_/static-224x224.py']
