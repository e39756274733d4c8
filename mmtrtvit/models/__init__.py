"""Backbones: the TRT-ViT family, what it is made of, and those peers that no library has."""

from mmtrtvit.models.cswin import CSWin
from mmtrtvit.models.cvt import CvT
from mmtrtvit.models.efficientformer import AnySizeEfficientFormer
from mmtrtvit.models.pooling import LastMapPooling
from mmtrtvit.models.timm_backbone import TimmBackbone
from mmtrtvit.models.trtvit import ARCHS, TRTViT
from mmtrtvit.models.vanillanet import VanillaNet
from mmtrtvit.models.warm_start import LoadReport, load_weights

__all__ = [
    'ARCHS',
    'AnySizeEfficientFormer',
    'CSWin',
    'CvT',
    'LastMapPooling',
    'LoadReport',
    'TRTViT',
    'TimmBackbone',
    'VanillaNet',
    'load_weights',
]
