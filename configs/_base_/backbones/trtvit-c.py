# TRT-ViT-C, our reconstruction. Stem and stages 1-3 are a ResNetV1d-50, whose public weights they start from; stage 4
# starts from random weights. There are no published TRT-ViT weights: see docs/training.md for pre-training your own.
backbone = dict(
    _delete_=True,
    type='TRTViT',
    arch='c',
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.2,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnetv1d50_b32x8_imagenet_20210531-db14775a.pth',
    ),
)
channels = [256, 512, 1024, 1536]
