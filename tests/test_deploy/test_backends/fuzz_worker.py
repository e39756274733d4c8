"""Loads what standard input names, a JSON object a line; answers with one line each. See test_fuzz.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mmtrtvit.deploy.backends import BackendError, LoadOptions, get_backend


def work(task: dict[str, Any]) -> str:
    if 'path' not in task:
        return 'ok'
    path, backend = Path(task['path']), get_backend(task['backend'])
    try:
        if task.get('build'):
            backend.build(path, path.with_suffix('.out'))
        elif task.get('deserialize'):
            deserialize(path)
        else:
            load_and_run(path, bool(task.get('require_card')))
    except BackendError as error:
        return f'BackendError {" ".join(str(error).split())}'
    except Exception as error:  # the test fails on this answer
        return f'{type(error).__name__} {error}'
    return 'ok'


def load_and_run(path: Path, require_card: bool) -> None:
    options = LoadOptions(threads=1, check_finite=False)
    with get_backend('onnxruntime').load(path, require_card=require_card, options=options) as runner:
        shapes = {spec.name: [size if isinstance(size, int) else 1 for size in spec.shape] for spec in runner.inputs}
        if all(0 < torch.Size(shape).numel() < 1_000_000 for shape in shapes.values()):
            feed = {spec.name: torch.zeros(shapes[spec.name], dtype=spec.torch_dtype) for spec in runner.inputs}
            try:
                runner(feed)
            except BackendError as error:
                raise BackendError(f'{path}: {error}') from error


def deserialize(path: Path) -> None:
    import tensorrt_rtx_bindings as api

    from mmtrtvit.deploy.backends.tensorrt_api import make_logger

    logger = make_logger(api)
    if api.Runtime(logger).deserialize_cuda_engine(path.read_bytes()) is None:
        raise BackendError(f'{path}: {logger.errors[:1]}')


def main() -> None:
    for line in sys.stdin:
        print(work(json.loads(line)).replace('\n', ' '), flush=True)


if __name__ == '__main__':
    main()
