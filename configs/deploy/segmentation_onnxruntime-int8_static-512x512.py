_base_ = ['_base_/segmentation.py', '_base_/onnxruntime-int8.py', '_base_/static-512x512.py']
