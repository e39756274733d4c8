_base_ = './poolformer-s24.py'
peer = dict(
    arch='s36',
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/poolformer/'
        'poolformer-s36_3rdparty_32xb128_in1k_20220414-d78ff3e8.pth',
    ),
)
