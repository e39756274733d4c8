onnx_config = dict(height=512, width=512)
