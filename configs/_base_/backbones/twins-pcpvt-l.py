peer = dict(
    _delete_=True,
    type='mmpretrain.PCPVT',
    arch='large',
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,  # the released weights have it, mmpretrain's default does not
    drop_path_rate=0.3,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-pcpvt-large_3rdparty_16xb64_in1k_20220126-c1ef8d80.pth',
        prefix='backbone.',
    ),
)
peer_channels = [64, 128, 320, 512]
