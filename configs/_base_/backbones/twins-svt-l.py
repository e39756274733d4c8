_base_ = './twins-svt-b.py'
peer = dict(
    arch='large',
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-svt-large_3rdparty_16xb64_in1k_20220126-4817645f.pth',
    ),
)
peer_channels = [128, 256, 512, 1024]
