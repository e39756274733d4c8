"""The ``mmtrtvit`` scope of mmengine's model registry.

The backbones are registered once, at mmengine's root, where mmdet, mmseg and mmpretrain all look
after their own registry. This child, empty itself, makes the explicit spelling
``type='mmtrtvit.TRTViT'`` resolve to the same class.
"""

from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT_MODELS, scope='mmtrtvit', locations=['mmtrtvit.models'])

__all__ = ['MODELS']
