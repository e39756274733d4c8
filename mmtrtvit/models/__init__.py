"""Backbones: the TRT-ViT family and what it is made of."""

from mmtrtvit.models.trtvit import ARCHS, TRTViT
from mmtrtvit.models.warm_start import LoadReport, warm_start

__all__ = ['ARCHS', 'LoadReport', 'TRTViT', 'warm_start']
