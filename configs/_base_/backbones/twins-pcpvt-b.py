_base_ = './twins-pcpvt-s.py'
peer = dict(
    arch='base',
    drop_path_rate=0.3,
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-pcpvt-base_3rdparty_8xb128_in1k_20220126-f8c4b0d5.pth',
    ),
)
