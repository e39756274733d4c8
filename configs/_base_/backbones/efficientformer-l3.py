peer = dict(
    _delete_=True,
    type='AnySizeEfficientFormer',
    arch='l3',
    out_indices=(0, 1, 2, 3),
    last_norm='GN',
    drop_path_rate=0.1,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientformer/'
        'efficientformer-l3_3rdparty_in1k_20220915-466793d6.pth',
        prefix='backbone.',
    ),
)
peer_channels = [64, 128, 320, 512]
