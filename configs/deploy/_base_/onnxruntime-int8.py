_base_ = 'onnxruntime.py'
backend_config = dict(precision='int8')
