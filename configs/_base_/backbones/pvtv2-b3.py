_base_ = './pvtv2-b2.py'
peer = dict(
    num_layers=[3, 4, 18, 3],
    init_cfg=dict(checkpoint='https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b3.pth'),
)
