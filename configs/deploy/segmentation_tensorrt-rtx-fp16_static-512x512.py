_base_ = ['_base_/segmentation.py', '_base_/tensorrt-rtx-fp16.py', '_base_/static-512x512.py']
