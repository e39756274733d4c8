_base_ = './convnext-s.py'
peer = dict(
    arch='base',
    drop_path_rate=0.7,
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/'
        'convnext-base_32xb128_in1k_20221207-fbdb5eb9.pth',
    ),
)
peer_channels = [128, 256, 512, 1024]
