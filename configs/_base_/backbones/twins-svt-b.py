_base_ = './twins-svt-s.py'
peer = dict(
    arch='base',
    drop_path_rate=0.3,
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-svt-base_3rdparty_8xb128_in1k_20220126-e31cc8e9.pth',
    ),
)
peer_channels = [96, 192, 384, 768]
