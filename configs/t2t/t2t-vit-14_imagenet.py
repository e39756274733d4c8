# T2T-ViT keeps one resolution throughout: it classifies only.
_base_ = '../trtvit_imagenet.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.T2T_ViT',
        img_size=224,
        embed_dims=384,
        t2t_cfg=dict(token_dims=64, use_performer=False),
        num_layers=14,
        layer_cfgs=dict(num_heads=6, feedforward_channels=1152),
        drop_path_rate=0.1,
    ),
    neck=None,
    head=dict(
        _delete_=True,
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
