peer = dict(
    _delete_=True,
    type='mmpretrain.SVT',
    arch='base',
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,  # the released weights have it, mmpretrain's default does not
    norm_after_stage=True,
    drop_path_rate=0.3,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-svt-base_3rdparty_8xb128_in1k_20220126-e31cc8e9.pth',
        prefix='backbone.',
    ),
)
peer_channels = [96, 192, 384, 768]
