_base_ = ['../upernet_trtvit.py', '../_base_/backbones/vanillanet-9.py']
model = dict(
    backbone=_base_.peer,
    decode_head=dict(in_channels=_base_.peer_channels),
    auxiliary_head=dict(in_channels=_base_.peer_channels[2]),
)
