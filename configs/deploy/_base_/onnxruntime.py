# ONNX Runtime's own nodes, NonMaxSuppression and DeformConv: the same detections.
backend_config = dict(type='onnxruntime', operators=dict(nms=dict(form='onnx'), deform_conv='onnx'))
