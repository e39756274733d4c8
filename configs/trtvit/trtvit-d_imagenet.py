_base_ = '../trtvit_imagenet.py'
model = dict(backbone=dict(arch='d'))
