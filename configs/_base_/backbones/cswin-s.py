_base_ = './cswin-t.py'
peer = dict(arch='small', drop_path_rate=0.4)
