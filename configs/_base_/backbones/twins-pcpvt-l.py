_base_ = './twins-pcpvt-b.py'
peer = dict(
    arch='large',
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-pcpvt-large_3rdparty_16xb64_in1k_20220126-c1ef8d80.pth',
    ),
)
