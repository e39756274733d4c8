_base_ = ['../trtvit_imagenet.py', '../_base_/backbones/vanillanet-10.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=_base_.peer.out_indices[-1:]),
    head=dict(in_channels=_base_.peer_channels[-1]),
)
