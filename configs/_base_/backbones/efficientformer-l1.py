peer = dict(
    _delete_=True,
    type='AnySizeEfficientFormer',
    arch='l1',
    out_indices=(0, 1, 2, 3),
    last_norm='GN',
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientformer/'
        'efficientformer-l1_3rdparty_in1k_20220915-cc3e1ac6.pth',
        prefix='backbone.',
    ),
)
peer_channels = [48, 96, 224, 448]
