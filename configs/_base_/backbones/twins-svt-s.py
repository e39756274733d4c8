peer = dict(
    _delete_=True,
    type='mmpretrain.SVT',
    arch='small',
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,  # the released weights have it, mmpretrain's default does not
    norm_after_stage=True,
    drop_path_rate=0.2,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-svt-small_3rdparty_8xb128_in1k_20220126-8fe5205b.pth',
        prefix='backbone.',
    ),
)
peer_channels = [64, 128, 256, 512]
