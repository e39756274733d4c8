peer = dict(
    _delete_=True,
    type='mmpretrain.SVT',
    arch='large',
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,  # the released weights have it, mmpretrain's default does not
    norm_after_stage=True,
    drop_path_rate=0.3,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/twins/'
        'twins-svt-large_3rdparty_16xb64_in1k_20220126-4817645f.pth',
        prefix='backbone.',
    ),
)
peer_channels = [128, 256, 512, 1024]
