_base_ = ['_base_/segmentation.py', '_base_/onnxruntime.py', '_base_/static-512x512.py']
