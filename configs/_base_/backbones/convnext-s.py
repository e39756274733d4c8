_base_ = './convnext-t.py'
peer = dict(
    arch='small',
    drop_path_rate=0.6,
    init_cfg=dict(
        checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/'
        'convnext-small_32xb128_in1k_20221207-4ab7052c.pth',
    ),
)
