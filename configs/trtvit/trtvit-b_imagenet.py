_base_ = '../trtvit_imagenet.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.1), head=dict(in_channels=1024))
