_base_ = ['_base_/classification.py', '_base_/tensorrt.py', '_base_/static-224x224.py']
