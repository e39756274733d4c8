onnx_config = dict(height=800, width=1344)
