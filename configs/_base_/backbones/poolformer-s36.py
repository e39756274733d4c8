peer = dict(
    _delete_=True,
    type='mmpretrain.PoolFormer',
    arch='s36',
    out_indices=(0, 2, 4, 6),  # the odd indices are the embeddings between the stages
    drop_path_rate=0.1,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/poolformer/'
        'poolformer-s36_3rdparty_32xb128_in1k_20220414-d78ff3e8.pth',
        prefix='backbone.',
    ),
)
peer_channels = [64, 128, 320, 512]
