# NonMaxSuppression as ONNX Runtime's own node: the same detections, several times faster on its CPU.
backend_config = dict(type='onnxruntime', operators=dict(nms=dict(form='onnx')))
