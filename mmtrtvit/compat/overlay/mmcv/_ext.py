"""Laid beside mmcv-lite's modules by mmtrtvit's wheel, in the place of mmcv's compiled extension.

See ``mmtrtvit/compat/mmcv_ops.py``. A compiled ``_ext`` in the same folder is preferred by Python.
"""

import sys

from mmtrtvit.compat import mmcv_ext

sys.modules[__name__] = mmcv_ext
