"""A TensorRT module without TensorRT: it has what a recorded API surface lists, and raises on anything else.

Every call is noted in ``FakeModule.calls``. A built "engine" is JSON text; run, it writes twice the input into each
floating output at the very addresses it was given, so that a wrong address or shape shows.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.test_deploy.test_backends.recording import load_surface

_TYPES = {1: 'FLOAT', 10: 'HALF', 7: 'INT64', 9: 'BOOL'}
_LAYERS = {'Conv': 'CONVOLUTION', 'MatMul': 'MATRIX_MULTIPLY', 'Relu': 'ACTIVATION', 'Cast': 'CAST'}


class _Member:
    """A member of an enumeration: named, equal to itself, usable as a bit."""

    def __init__(self, enum: str, name: str, number: int) -> None:
        self.enum, self.name, self.number = enum, name, number

    def __int__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f'{self.enum}.{self.name}'


class FakeModule:
    """Stands in for ``tensorrt`` or ``tensorrt_rtx``.

    Args:
        surface: Name of a file under ``surfaces``.
    """

    def __init__(self, surface: str) -> None:
        content = load_surface(surface)
        self.__version__ = content['version']
        self.surface: dict[str, dict[str, str]] = content['classes']
        self.calls: list[tuple[Any, ...]] = []
        self.build_steps: Callable[[Any], None] = lambda monitor: None
        self.fails = ''  # what the builder logs as it fails
        self.inspector = '{"Layers": ["names only"]}'
        for name, members in content['enums'].items():
            enum = {key: _Member(name, key, number) for number, key in enumerate(members)}
            setattr(self, name, SimpleNamespace(**enum, __members__=enum))
        for name in ('ILogger', 'IProgressMonitor', 'IProfiler'):
            setattr(self, name, type(name, (), {'__init__': lambda self: None}))
        self.Builder = lambda logger: self.make('Builder', logger=logger)
        self.Runtime = lambda logger: self.make('Runtime', logger=logger)
        self.OnnxParser = lambda network, logger: self.make('OnnxParser', state_of=network, logger=logger)

    def make(self, cls: str, **state: Any) -> Any:
        return Strict(self, cls, state)

    def names(self) -> list[str]:
        """The calls without their arguments."""
        return [f'{call[0]}.{call[1]}' for call in self.calls]


class Strict:
    """An object of a recorded class: only recorded members can be read, set or called."""

    def __init__(self, module: FakeModule, cls: str, state: dict[str, Any]) -> None:
        self.__dict__.update(_module=module, _cls=cls, _state=state, _values={})

    def _allow(self, name: str) -> None:
        if name not in self._module.surface.get(self._cls, {}):
            raise AttributeError(f'{self._cls} of {self._module.__version__} has no {name}')

    def __setattr__(self, name: str, value: Any) -> None:
        self._allow(name)
        self._values[name] = value
        self._module.calls.append((self._cls, f'{name}=', value))

    def __getattr__(self, name: str) -> Any:
        self._allow(name)
        behaviour = getattr(Behaviour, f'{self._cls}_{name}'.lower(), None)
        if behaviour is None:
            return self._values.get(name, lambda *arguments: self._module.calls.append((self._cls, name, *arguments)))
        if name in PROPERTIES:
            return behaviour(self)

        def call(*arguments: Any) -> Any:
            self._module.calls.append((self._cls, name, *arguments))
            return behaviour(self, *arguments)

        return call


PROPERTIES = {
    'num_layers',
    'num_inputs',
    'num_outputs',
    'num_errors',
    'num_io_tensors',
    'shape',
    'dtype',
    'name',
    'type',
}


class Behaviour:
    """What the recorded methods do, as far as our adapter can see it."""

    def builder_create_network(self: Any, flags: int = 0) -> Any:
        return self._module.make('INetworkDefinition', layers=[], inputs=[], outputs=[])

    def builder_create_builder_config(self: Any) -> Any:
        return self._module.make('IBuilderConfig')

    def builder_create_optimization_profile(self: Any) -> Any:
        return self._module.make('IOptimizationProfile')

    def builder_build_serialized_network(self: Any, network: Any, config: Any) -> bytes | None:
        self._module.build_steps(config._values['progress_monitor'])
        if self._module.fails:
            self._state['logger'].log(SimpleNamespace(name='ERROR'), self._module.fails)
            return None
        tensors = [_describe(tensor, 'INPUT') for tensor in network._state['inputs']]
        tensors += [_describe(tensor, 'OUTPUT') for tensor in network._state['outputs']]
        return json.dumps({'fake engine': tensors}).encode()

    def onnxparser_parse_from_file(self: Any, path: str) -> bool:
        graph = onnx.load_model(path).graph
        types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
        weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
        state, make = self._state['state_of']._state, self._module.make

        def tensor(name: str) -> Any:
            kind = types[name].elem_type if name in types else weights[name]
            shape = [size.dim_value or -1 for size in types[name].shape.dim] if name in types else []
            dtype = getattr(self._module.DataType, _TYPES[kind])
            return make('ITensor', name=name, dtype=dtype, shape=tuple(shape))

        for node in graph.node:
            kind = getattr(self._module.LayerType, _LAYERS.get(node.op_type, 'ELEMENTWISE'))
            outputs = [tensor(name) for name in node.output]
            inputs = [tensor(name) for name in node.input]
            state['layers'].append(make('ILayer', name=node.name, type=kind, inputs=inputs, outputs=outputs))
        state['inputs'] = [tensor(value.name) for value in graph.input]
        state['outputs'] = [tensor(value.name) for value in graph.output]
        return True

    def inetworkdefinition_num_layers(self: Any) -> int:
        return len(self._state['layers'])

    def inetworkdefinition_get_layer(self: Any, index: int) -> Any:
        return self._state['layers'][index]

    def inetworkdefinition_num_inputs(self: Any) -> int:
        return len(self._state['inputs'])

    def inetworkdefinition_num_outputs(self: Any) -> int:
        return len(self._state['outputs'])

    def inetworkdefinition_get_input(self: Any, index: int) -> Any:
        return self._state['inputs'][index]

    def inetworkdefinition_get_output(self: Any, index: int) -> Any:
        return self._state['outputs'][index]

    def ilayer_type(self: Any) -> Any:
        return self._state['type']

    def ilayer_num_outputs(self: Any) -> int:
        return len(self._state['outputs'])

    def ilayer_num_inputs(self: Any) -> int:
        return len(self._state['inputs'])

    def ilayer_get_output(self: Any, index: int) -> Any:
        return self._state['outputs'][index]

    def ilayer_get_input(self: Any, index: int) -> Any:
        return self._state['inputs'][index]

    def itensor_name(self: Any) -> str:
        return self._state['name']

    def itensor_dtype(self: Any) -> Any:
        return self._state['dtype']

    def itensor_shape(self: Any) -> tuple[int, ...]:
        return self._state['shape']

    def itensor_get_dimension_name(self: Any, axis: int) -> str:
        return ''

    def ibuilderconfig_create_timing_cache(self: Any, content: bytes) -> Any:
        return None if content.startswith(b'foreign') else self._module.make('ITimingCache', content=content)

    def ibuilderconfig_set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        self._state['cache'] = cache
        return True

    def ibuilderconfig_get_timing_cache(self: Any) -> Any:
        return self._state['cache']

    def itimingcache_serialize(self: Any) -> bytes:
        return self._state['content'] + b'timed;'

    def ibuilderconfig_set_compute_capability(self: Any, capability: Any, index: int) -> bool:
        return index < self._values['num_compute_capabilities']

    def runtime_deserialize_cuda_engine(self: Any, content: bytes) -> Any:
        try:
            tensors = json.loads(bytes(content))['fake engine']
        except (ValueError, KeyError):
            self._state['logger'].log(SimpleNamespace(name='ERROR'), 'Magic tag does not match')
            return None
        return self._module.make('ICudaEngine', tensors=tensors)

    def icudaengine_num_io_tensors(self: Any) -> int:
        return len(self._state['tensors'])

    def icudaengine_get_tensor_name(self: Any, index: int) -> str:
        return self._state['tensors'][index]['name']

    def icudaengine_get_tensor_shape(self: Any, name: str) -> list[int]:
        return _tensor(self, name)['shape']

    def icudaengine_get_tensor_dtype(self: Any, name: str) -> Any:
        return getattr(self._module.DataType, _tensor(self, name)['dtype'])

    def icudaengine_get_tensor_mode(self: Any, name: str) -> Any:
        return getattr(self._module.TensorIOMode, _tensor(self, name)['mode'])

    def icudaengine_create_engine_inspector(self: Any) -> Any:
        return self._module.make('EngineInspector')

    def engineinspector_get_engine_information(self: Any, kind: Any) -> str:
        return self._module.inspector

    def icudaengine_create_runtime_config(self: Any) -> Any:
        return self._module.make('IRuntimeConfig')

    def iruntimeconfig_create_runtime_cache(self: Any) -> Any:
        return self._module.make('IRuntimeCache', content=b'')

    def iruntimecache_deserialize(self: Any, blob: bytes) -> bool:
        self._state['content'] = bytes(blob)
        return True

    def iruntimecache_serialize(self: Any) -> bytes:
        return self._state['content'] + b'kernel;'

    def icudaengine_create_execution_context(self: Any, config: Any = None) -> Any:
        return self._module.make('IExecutionContext', engine=self, shapes={}, addresses={})

    def iexecutioncontext_set_input_shape(self: Any, name: str, shape: tuple[int, ...]) -> bool:
        self._state['shapes'][name] = shape
        return len(shape) > 0 and shape[0] <= 4  # the "profile" ends at a batch of 4

    def iexecutioncontext_get_tensor_shape(self: Any, name: str) -> list[int]:
        batch = next(iter(self._state['shapes'].values()))[0]
        return [batch if size == -1 else size for size in _tensor(self._state['engine'], name)['shape']]

    def iexecutioncontext_set_tensor_address(self: Any, name: str, address: int) -> bool:
        self._state['addresses'][name] = address
        return True

    def iexecutioncontext_execute_async_v3(self: Any, stream: int) -> bool:
        if self._module.fails:
            return False
        tensors = self._state['engine']._state['tensors']
        first = next(entry['name'] for entry in tensors if entry['mode'] == 'INPUT')
        source = _view(self._state['addresses'][first], self._state['shapes'][first])
        for entry in tensors:
            if entry['mode'] == 'OUTPUT':
                shape = Behaviour.iexecutioncontext_get_tensor_shape(self, entry['name'])
                target = _view(self._state['addresses'][entry['name']], shape)
                target[...] = 2 * source.reshape(-1)[: target.size].reshape(target.shape)
        profiler = self._values.get('profiler')
        if profiler is not None:
            profiler.report_layer_time('conv', 0.75)
            profiler.report_layer_time('relu', 0.25)
        return True


def _describe(tensor: Any, mode: str) -> dict[str, Any]:
    return {'name': tensor.name, 'shape': list(tensor.shape), 'dtype': tensor.dtype.name, 'mode': mode}


def _tensor(engine: Any, name: str) -> dict[str, Any]:
    return next(entry for entry in engine._state['tensors'] if entry['name'] == name)


def _view(address: int, shape: Any) -> np.ndarray:
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(tuple(shape))


class FakeGraph:
    """A CUDA graph that notes its replays and runs what was captured."""

    captured: Callable[[], None]
    replays = 0

    def replay(self) -> None:
        type(self).replays += 1


class FakeStream:
    def __init__(self, device: Any = None, number: int = 7) -> None:
        self.cuda_stream = number

    def wait_stream(self, other: Any) -> None: ...

    def synchronize(self) -> None: ...


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 6)) -> None:
    """Make torch.cuda answer as if there were one GPU; tensors stay in the host's memory."""
    default = FakeStream(number=0)
    answers: dict[str, Any] = {
        'is_available': lambda: True,
        'device_count': lambda: 1,
        'current_device': lambda: 0,
        'set_device': lambda device: None,
        'device': lambda device: nullcontext(),
        'get_device_name': lambda device=None: 'Pretended GPU',
        'get_device_capability': lambda device=None: capability,
        'current_stream': lambda device=None: default,
        'default_stream': lambda device=None: default,
        'synchronize': lambda device=None: None,
        'stream': lambda stream: nullcontext(),
        'Stream': FakeStream,
        'CUDAGraph': FakeGraph,
        'graph': lambda graph, stream=None: nullcontext(),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.Tensor, 'record_stream', lambda self, stream: None)
