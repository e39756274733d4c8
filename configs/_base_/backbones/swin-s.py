_base_ = './swin-t.py'
peer = dict(
    arch='small',
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/swin-transformer/'
        'swin_small_224_b16x64_300e_imagenet_20210615_110219-7f9d988b.pth',
    ),
)
