_base_ = 'tensorrt.py'
backend_config = dict(precision='int8')
