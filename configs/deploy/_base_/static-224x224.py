onnx_config = dict(height=224, width=224)
