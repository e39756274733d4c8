_base_ = '../upernet_trtvit.py'
model = dict(backbone=dict(arch='a', drop_path_rate=0.1), decode_head=dict(in_channels=[256, 512, 1024, 1024]))
