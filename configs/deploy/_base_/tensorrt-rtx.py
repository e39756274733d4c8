# One engine for every GPU that TensorRT-RTX lists, built without one.
backend_config = dict(type='tensorrt-rtx')
