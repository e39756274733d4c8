peer = dict(
    _delete_=True,
    type='TimmBackbone',
    model_name='regnety_040',
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.0,
    pretrained=True,
)
peer_channels = [128, 192, 512, 1088]
