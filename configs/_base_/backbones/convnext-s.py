peer = dict(
    _delete_=True,
    type='mmpretrain.ConvNeXt',
    arch='small',
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
    drop_path_rate=0.6,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/'
        'convnext-small_32xb128_in1k_20221207-4ab7052c.pth',
        prefix='backbone.',
    ),
)
peer_channels = [96, 192, 384, 768]
