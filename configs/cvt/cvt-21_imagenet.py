_base_ = './cvt-13_imagenet.py'
model = dict(backbone=dict(arch='21'))
