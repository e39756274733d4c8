_base_ = 'tensorrt-rtx.py'
backend_config = dict(precision='int8')
