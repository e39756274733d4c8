_base_ = ['../retinanet_trtvit.py', '../_base_/backbones/resnet-101.py']
model = dict(
    backbone=dict(_base_.peer, frozen_stages=1, norm_eval=True, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.peer_channels[1:]),
)
