"""Small graphs in ONNX's text form, and running them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from mmtrtvit.deploy.exporter import FLOAT32_SCOPES

Feed = dict[str, np.ndarray]


def run(path: Path | str, feed: Feed) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def write(path: Path, text: str, scopes: dict[str, str] | None = None, **constants: np.ndarray) -> Path:
    """Write a graph in ONNX's text form; ``scopes``: first output of a node -> its module path."""
    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key = 'pkg.torch.onnx.name_scopes'
        entry.value = str(['', (scopes or {}).get(node.output[0], 'network'), 'call'])
    entry = model.metadata_props.add()
    entry.key, entry.value = FLOAT32_SCOPES, json.dumps(['island'])
    onnx.save(model, str(path))
    return path


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)
