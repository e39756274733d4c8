"""What the tests of deployment share: graphs exported once a session."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from mmtrtvit.deploy.exporter import ExportReport, export
from mmtrtvit.deploy.graphs import DeployGraph, GraphOptions, build_graph
from tests.test_deploy import models


@dataclass
class Exported:
    """A small model, its graph, and the ONNX file of it.

    Attributes:
        model: The untouched model.
        graph: Its graph.
        report: What the export reported.
    """

    model: Any
    graph: DeployGraph
    report: ExportReport
    proto: onnx.ModelProto = field(init=False)
    session: onnxruntime.InferenceSession = field(init=False)

    def __post_init__(self) -> None:
        self.proto = onnx.load_model(str(self.report.path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(self.report.path), options, providers=['CPUExecutionProvider']
        )  # fmt: skip

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """What ONNX Runtime computes."""
        found = self.session.run(list(self.graph.output_names), {'image': image.contiguous().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.graph.output_names, found, strict=True)}


@pytest.fixture(scope='session')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """``exported(name, changes, dynamic_batch=..., **graph_options)``, made once for the same arguments."""
    made: dict[str, Exported] = {}
    folder: Path = tmp_path_factory.mktemp('onnx')

    def make(
        name: str, changes: Mapping[str, Any] | None = None, dynamic_batch: bool = False, **options: Any
    ) -> Exported:
        key = repr((name, changes, dynamic_batch, sorted(options.items(), key=str)))
        if key not in made:
            model = models.build(name, dict(changes or {}))
            graph = build_graph(copy.deepcopy(model), GraphOptions(**options))
            report = export(graph, folder / f'{name}-{len(made)}.onnx', dynamic_batch=dynamic_batch)
            made[key] = Exported(model, graph, report)
        return made[key]

    return make
