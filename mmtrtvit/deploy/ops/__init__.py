"""Plain tensor functions of a detector's graph: exact, static in shape, batch first; torch only."""

from mmtrtvit.deploy.ops.boxes import decode_deltas, decode_distances, gather_rows, top_k, top_k_classes
from mmtrtvit.deploy.ops.masks import paste_masks, select_class_masks
from mmtrtvit.deploy.ops.nms import Detections, NMSOptions, greedy_keep, select_detections
from mmtrtvit.deploy.ops.onnx_nms import onnx_translations
from mmtrtvit.deploy.ops.roi_align import map_levels, roi_align_pyramid

__all__ = [
    'Detections',
    'NMSOptions',
    'decode_deltas',
    'decode_distances',
    'gather_rows',
    'greedy_keep',
    'map_levels',
    'onnx_translations',
    'paste_masks',
    'roi_align_pyramid',
    'select_class_masks',
    'select_detections',
    'top_k',
    'top_k_classes',
]
