"""The embedded data set: generated shapes in COCO's and ADE20K's layouts. ``python -m mmtrtvit.datasets OUT_DIR``."""

from mmtrtvit.datasets.shapes import CLASSES, METAINFO, PALETTE
from mmtrtvit.datasets.writer import DatasetError, Parameters, generate

__all__ = ['CLASSES', 'METAINFO', 'PALETTE', 'DatasetError', 'Parameters', 'generate']
