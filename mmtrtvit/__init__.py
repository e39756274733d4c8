"""TRT-ViT for dense prediction on OpenMMLab, from training to the deployed engine."""

from mmtrtvit import compat
from mmtrtvit.version import __version__

compat.install()

from mmtrtvit import models, registry  # noqa: E402  the mends must be in place first

__all__ = ['__version__', 'compat', 'models', 'registry']
