"""Graphs as modules on an accelerator: what they give on the CPU, and whether a CUDA graph can hold them."""

from __future__ import annotations

import pytest

from mmtrtvit.deploy.backends import get_backend
from mmtrtvit.deploy.parity import TOLERANCES, compare
from tests.devices import ACCELERATORS, capturing
from tests.test_deploy import models
from tests.test_deploy.test_graphs.common import CLASSIFIERS, DETECTORS, SEGMENTORS, eager, feed, graph_of, images

EVERY_GRAPH = (*DETECTORS, *SEGMENTORS, *CLASSIFIERS)


@pytest.mark.parametrize('device', ACCELERATORS)
@pytest.mark.parametrize('image_dtype', ['float32', 'uint8'])
@pytest.mark.parametrize('name', EVERY_GRAPH)
def test_another_device_gives_what_the_cpu_gives(name: str, image_dtype: str, device: str) -> None:
    model = models.build(name)
    graph = graph_of(model, batch_size=2, image_dtype=image_dtype)
    image = feed(graph, model, images(2))
    expected = eager(graph, image)
    if device == 'cuda':
        runner = get_backend('cudagraph').wrap(graph, {'image': image}, graph.output_names, device)
        found = runner({'image': image.to(device)})
    else:
        graph, image = graph.to(device), image.to(device)
        with capturing():
            found = eager(graph, image)
    assert {tensor.device.type for tensor in found.values()} == {device}
    verdict = compare(expected, {name: tensor.cpu() for name, tensor in found.items()}, TOLERANCES['fp32'])
    assert verdict.passed, verdict
