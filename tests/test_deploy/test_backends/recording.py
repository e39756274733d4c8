"""The Python API of TensorRT as data: recorded from an installed module, or written down from its documentation.

`python -m tests.test_deploy.test_backends.recording` records the installed TensorRT-RTX anew.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

SURFACES = Path(__file__).with_name('surfaces')
#: What our adapter touches, and what lies beside it.
CLASSES = (
    'Builder', 'EngineInspector', 'IBuilderConfig', 'ICudaEngine', 'IExecutionContext', 'IHostMemory', 'ILayer',
    'ILogger', 'INetworkDefinition', 'IOptimizationProfile', 'IProfiler', 'IProgressMonitor', 'IRuntimeCache',
    'IRuntimeConfig', 'ITensor', 'ITimingCache', 'OnnxParser', 'ParserError', 'Runtime',
)  # fmt: skip
ENUMS = (
    'BuilderFlag', 'ComputeCapability', 'CudaGraphStrategy', 'DataType', 'HardwareCompatibilityLevel', 'LayerType',
    'LayerInformationFormat', 'MemoryPoolType', 'NetworkDefinitionCreationFlag', 'ProfilingVerbosity', 'TensorIOMode',
)  # fmt: skip


def load_surface(name: str) -> dict[str, Any]:
    surface: dict[str, Any] = json.loads((SURFACES / f'{name}.json').read_text(encoding='utf-8'))
    return surface


def record(module: Any) -> dict[str, Any]:
    """Classes with the signatures of their methods ('property' for the rest), and members of enumerations."""
    classes = {}
    for name in CLASSES:
        cls = getattr(module, name, None)
        if cls is not None:
            members = {key: _signature(getattr(cls, key)) for key in sorted(dir(cls)) if not key.startswith('_')}
            classes[name] = members
    enums = {name: sorted(getattr(module, name).__members__) for name in ENUMS if hasattr(module, name)}
    return {'version': module.__version__, 'source': 'recorded', 'classes': classes, 'enums': enums}


def _signature(member: Any) -> str:
    lines = (getattr(member, '__doc__', '') or '').strip().splitlines()
    text = lines[0] if callable(member) and lines else ''
    if text == 'Overloaded function.':
        text = ' | '.join(line[3:] for line in lines if line[:1].isdigit() and line[1:3] == '. ')
    return text.replace('tensorrt_rtx_bindings.tensorrt_rtx.', '') if text else 'property'


if __name__ == '__main__':
    surface = record(importlib.import_module('tensorrt_rtx_bindings'))
    path = SURFACES / 'tensorrt_rtx-1.7.json'
    path.write_text(json.dumps(surface, indent=1) + '\n', encoding='utf-8')
    print(path)
