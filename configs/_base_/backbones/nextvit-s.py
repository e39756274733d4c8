peer = dict(
    _delete_=True,
    type='TimmBackbone',
    model_name='nextvit_small',
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.2,
    pretrained=True,
)
peer_channels = [96, 256, 512, 1024]
