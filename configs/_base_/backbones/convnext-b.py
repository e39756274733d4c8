peer = dict(
    _delete_=True,
    type='mmpretrain.ConvNeXt',
    arch='base',
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
    drop_path_rate=0.7,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/'
        'convnext-base_32xb128_in1k_20221207-fbdb5eb9.pth',
        prefix='backbone.',
    ),
)
peer_channels = [128, 256, 512, 1024]
