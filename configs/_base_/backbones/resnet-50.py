peer = dict(
    _delete_=True,
    type='mmpretrain.ResNet',
    depth=50,
    out_indices=(0, 1, 2, 3),
    style='pytorch',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet50_8xb32_in1k_20210831-ea4938fc.pth',
        prefix='backbone.',
    ),
)
peer_channels = [256, 512, 1024, 2048]
