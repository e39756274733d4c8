onnx_config = dict(height=320, width=320)
