onnx_config = dict(height=640, width=640)
