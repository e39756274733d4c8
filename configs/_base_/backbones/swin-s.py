peer = dict(
    _delete_=True,
    type='mmpretrain.SwinTransformer',
    arch='small',
    out_indices=(0, 1, 2, 3),
    pad_small_map=True,
    drop_path_rate=0.2,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/swin-transformer/'
        'swin_small_224_b16x64_300e_imagenet_20210615_110219-7f9d988b.pth',
        prefix='backbone.',
    ),
)
peer_channels = [96, 192, 384, 768]
