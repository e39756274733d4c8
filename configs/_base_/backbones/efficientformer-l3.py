_base_ = './efficientformer-l1.py'
peer = dict(
    arch='l3',
    drop_path_rate=0.1,
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientformer/'
        'efficientformer-l3_3rdparty_in1k_20220915-466793d6.pth',
    ),
)
peer_channels = [64, 128, 320, 512]
