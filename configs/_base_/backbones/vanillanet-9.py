# Written from the paper for measuring speed: the published weights carry other names and are not loaded.
peer = dict(
    _delete_=True,
    type='VanillaNet',
    arch='9',
    out_indices=(0, 1, 2, 3),
)
peer_channels = [512, 1024, 2048, 4096]
