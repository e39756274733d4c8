from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('onnxruntime')

from mmtrtvit.deploy.backends.check_graphs import make_probe, probe_feed, to_fp16, to_int8


@pytest.fixture(scope='session')
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small graphs by name: convolution and attention in fp32 and fp16, convolution in int8, a top-k."""
    folder = tmp_path_factory.mktemp('graphs')
    found = {
        name: make_probe(name, folder / f'{name.replace(" ", "_")}.onnx')
        for name in ('convolution', 'attention', 'top k')
    }
    for name in ('convolution', 'attention'):
        found[f'{name} fp16'] = to_fp16(found[name], folder / f'{name}.fp16.onnx')
    feeds = [probe_feed('convolution', seed) for seed in range(4)]
    found['convolution int8'] = to_int8(found['convolution'], folder / 'convolution.int8.onnx', feeds)
    return found
