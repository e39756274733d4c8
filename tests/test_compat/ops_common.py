"""What the tests of the ops share."""

from __future__ import annotations

import pytest
import torch

DEVICES = [
    'cpu',
    pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')),
]
