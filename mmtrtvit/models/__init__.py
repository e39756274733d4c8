"""Backbones: the TRT-ViT family and what it is made of."""

from mmtrtvit.models.trtvit import ARCHS, TRTViT
from mmtrtvit.models.warm_start import LoadReport, load_weights

__all__ = ['ARCHS', 'LoadReport', 'TRTViT', 'load_weights']
