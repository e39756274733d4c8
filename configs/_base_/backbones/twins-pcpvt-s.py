peer = dict(
    _delete_=True,
    type='mmpretrain.PCPVT',
    arch='small',
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,  # the released weights have it, mmpretrain's default does not
    drop_path_rate=0.2,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-pcpvt-small_3rdparty_8xb128_in1k_20220126-ef23c132.pth',
        prefix='backbone.',
    ),
)
peer_channels = [64, 128, 320, 512]
