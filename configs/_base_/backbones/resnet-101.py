peer = dict(
    _delete_=True,
    type='mmpretrain.ResNet',
    depth=101,
    out_indices=(0, 1, 2, 3),
    style='pytorch',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet101_8xb32_in1k_20210831-539c63f8.pth',
        prefix='backbone.',
    ),
)
peer_channels = [256, 512, 1024, 2048]
