"""Options, reports, precision and the trtexec line: plain Python, no library."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmtrtvit.deploy.backends import BackendError, BuildOptions, LoadOptions, TensorSpec, backend_names, get_backend
from mmtrtvit.deploy.backends.tally import Tally, check_precision
from mmtrtvit.deploy.backends.trtexec import trtexec_line
from mmtrtvit.deploy.backends.types import costs_by_share


@pytest.mark.parametrize(
    ('field', 'value', 'allowed'),
    [
        ('precision', 'half', "'fp32', 'fp16', 'int8'"),
        ('profiling', 'verbose', "'none', 'layer_names', 'detailed'"),
        ('hardware_compatible', True, "'none', 'ampere_plus', 'same_compute_capability'"),
        ('optimization_level', 6, 'a whole number from 0 to 5, or None'),
        ('optimization_level', True, 'a whole number from 0 to 5, or None'),
        ('workspace_mib', 0, 'a whole number from 1'),
        ('workspace_mib', 1.5, 'a whole number from 1'),
        ('min_precision_share', 1.1, 'a number from 0 to 1, or None'),
        ('timing_cache', '', 'the name of a file, or None'),
        ('version_compatible', 'yes', 'True or False'),
        ('tf32', 1, 'True or False'),
        ('compute_capabilities', '8.6', 'a list of texts such as'),
        ('compute_capabilities', ['sm86'], "texts such as '8.6'"),
        ('compute_capabilities', ['8.6', '8.6'], 'each one once'),
        ('batch', (4, 2, 1), '1 <= least <= usual <= largest'),
        ('batch', (0, 1, 2), '1 <= least <= usual <= largest'),
        ('batch', (1, 2), 'three whole numbers'),
        ('shapes', [1], 'a dict such as'),
        ('max_aux_streams', -1, 'a whole number from 0 to 64'),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(BackendError) as caught:
        BuildOptions.from_dict({field: value})
    message = str(caught.value)
    assert message.startswith(f'BuildOptions.{field}={value!r}: must be ')
    assert allowed in message


@pytest.mark.parametrize('bounds', [((1, 3), (1, 3)), ((1, 3), (1, 3, 4), (1, 3)), ((2, 3), (1, 3), (4, 3))])
def test_wrong_shapes_name_the_input(bounds: Any) -> None:
    with pytest.raises(BackendError, match=r"BuildOptions\.shapes\['image'\]=.*least"):
        BuildOptions(shapes={'image': bounds})


def test_unknown_fields_are_named_with_the_nearest() -> None:
    with pytest.raises(
        BackendError, match=r"'optimisation_level' is none of its fields; did you mean 'optimization_level'\?"
    ):
        BuildOptions.from_dict({'optimisation_level': 3})
    with pytest.raises(BackendError, match=r"LoadOptions: 'gpu' is none of its fields\. They are: check_finite"):
        LoadOptions.from_dict({'gpu': 3})
    with pytest.raises(BackendError, match=r'LoadOptions\.threads=0: must be a whole number from 1'):
        LoadOptions(threads=0)


def test_options_survive_json() -> None:
    options = BuildOptions(precision='int8', batch=(1, 2, 4), compute_capabilities=('8.6',), workspace_mib=64)
    assert BuildOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_backends_by_name() -> None:
    assert backend_names() == ('onnxruntime', 'tensorrt', 'tensorrt-rtx', 'pytorch', 'torch-compile', 'cudagraph')
    for name in backend_names():
        assert get_backend(name).name == name
    with pytest.raises(
        BackendError, match=r"backend='tensorrt_rtx' is unknown; did you mean 'tensorrt-rtx'\? There are: onnx"
    ):
        get_backend('tensorrt_rtx')


def test_least_share() -> None:
    assert [BuildOptions(precision=name).least_share for name in ('fp32', 'fp16', 'int8')] == [1.0, 0.5, 0.5]
    assert BuildOptions(min_precision_share=0.0).least_share == 0.0


def test_precision_is_judged_by_products_and_reported_for_all() -> None:
    tally = Tally('network', 20, products={'fp16': 6, 'fp32': 2}, floats={'fp16': 6, 'fp32': 10})
    assert (tally.obtained, tally.share('fp16'), tally.float_share('fp16')) == ('fp16', 0.75, 0.375)
    check_precision(tally, BuildOptions(precision='fp16'), 'm.onnx', 'tensorrt')
    with pytest.raises(BackendError) as caught:
        check_precision(tally, BuildOptions(precision='fp16', min_precision_share=0.9), 'm.onnx', 'tensorrt')
    assert str(caught.value) == (
        'm.onnx: fp16 was asked of tensorrt, but the parsed network has 75% of its convolutions and matrix products in '
        'fp16 (6 in fp16, 2 in fp32), less than min_precision_share=0.9. The ONNX graph carries the precision: export '
        'it in fp16, or ask for a smaller share.'
    )
    with pytest.raises(BackendError, match='fp32 was asked'):  # a graph with some fp16 is no fp32 graph
        check_precision(tally, BuildOptions(), 'm.onnx', 'tensorrt')


def test_a_graph_without_products_is_judged_by_all_layers() -> None:
    assert Tally('graph', 1, floats={'fp32': 1}).share('fp32') == 1.0
    assert Tally('graph', 0).share('fp16') == 1.0
    assert Tally('graph', 0).obtained == ''


def test_trtexec_line_quotes_for_a_shell() -> None:
    line = trtexec_line(BuildOptions(profiling='none'), 'my model.onnx', 'my.engine', rtx=True)
    assert line == (
        "tensorrt_rtx '--onnx=my model.onnx' --saveEngine=my.engine --noTF32 --profilingVerbosity=none --skipInference"
    )
    assert '--noTF32' not in trtexec_line(BuildOptions(tf32=True), 'm.onnx', 'm.engine')


def test_specs() -> None:
    spec = TensorSpec('image', 'float32', ('N', 3, 32, 32))
    assert (str(spec), spec.dynamic) == ('image float32 (N, 3, 32, 32)', True)
    assert spec.resolve({'N': 2}) == (2, 3, 32, 32)
    assert spec.resolve({}) is None
    with pytest.raises(BackendError, match="tensor 'x': 'float' is no tensor type"):  # torch.float is, but not its name
        TensorSpec('x', 'float', ())
    with pytest.raises(BackendError, match="'save' is no tensor type"):
        TensorSpec('x', 'save', ())


def test_costs_are_sorted_and_sum_to_one() -> None:
    costs = costs_by_share({'a': ('Conv', 1.0), 'b': ('Relu', 3.0)})
    assert [(cost.name, cost.share) for cost in costs] == [('b', 0.75), ('a', 0.25)]
    assert costs_by_share({}) == []
