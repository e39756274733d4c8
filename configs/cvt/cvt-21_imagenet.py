# CvT ends at stride 16 with a class token: it classifies only. Written from the paper for measuring speed: the
# published weights carry other names and are not loaded.
_base_ = '../trtvit_imagenet.py'
model = dict(
    backbone=dict(_delete_=True, type='CvT', arch='21', drop_path_rate=0.1),
    neck=None,
    head=dict(in_channels=384),
)
