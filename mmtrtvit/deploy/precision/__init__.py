"""fp16 and int8 in the ONNX graph: casts and Q/DQ nodes, with float32 islands where values need them."""

from mmtrtvit.deploy.precision.emulate import emulate_fp16
from mmtrtvit.deploy.precision.fp16 import to_fp16
from mmtrtvit.deploy.precision.int8 import to_int8
from mmtrtvit.deploy.precision.report import PrecisionError, PrecisionReport

__all__ = ['PrecisionError', 'PrecisionReport', 'emulate_fp16', 'to_fp16', 'to_int8']
