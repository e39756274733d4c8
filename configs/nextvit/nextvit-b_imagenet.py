_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/nextvit-b.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=None, pretrained=False),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
