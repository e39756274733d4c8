_base_ = '../retinanet_trtvit.py'
model = dict(backbone=dict(arch='b', drop_path_rate=0.1), neck=dict(in_channels=[512, 1024, 1024]))
