_base_ = './nextvit-s.py'
peer = dict(model_name='nextvit_base')
