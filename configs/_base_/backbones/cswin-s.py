# Written from the paper for measuring speed: the published weights carry other names and are not loaded.
peer = dict(
    _delete_=True,
    type='CSWin',
    arch='small',
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.4,
)
peer_channels = [64, 128, 256, 512]
