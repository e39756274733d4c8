_base_ = ['../retinanet_trtvit.py', '../_base_/backbones/vanillanet-9.py']
model = dict(
    backbone=dict(_base_.peer, out_indices=_base_.peer.out_indices[1:]), neck=dict(in_channels=_base_.peer_channels[1:])
)
