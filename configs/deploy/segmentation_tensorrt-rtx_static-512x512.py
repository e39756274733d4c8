_base_ = ['_base_/segmentation.py', '_base_/tensorrt-rtx.py', '_base_/static-512x512.py']
