# TRT-ViT-D's third stage is deeper than ResNet-50's: it starts from ResNetV1d-101.
checkpoint = (
    'https://download.openmmlab.com/mmclassification/v0/resnet/resnetv1d101_b32x8_imagenet_20210531-6e13bcd3.pth'
)
