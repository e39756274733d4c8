peer = dict(
    _delete_=True,
    type='mmpretrain.ResNeXt',
    depth=101,
    groups=32,
    width_per_group=4,
    out_indices=(0, 1, 2, 3),
    style='pytorch',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnext/'
        'resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth',
        prefix='backbone.',
    ),
)
peer_channels = [256, 512, 1024, 2048]
