"""OpenMMLab on today's PyTorch. One file a mend; :func:`install` applies them all."""

from mmtrtvit.compat.config_scope import CONFIG_ROOT, config_path
from mmtrtvit.compat.install import install

__all__ = ['CONFIG_ROOT', 'config_path', 'install']
