"""Deploy configs: all that come along are read, and a wrong key or value is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmtrtvit.apis.errors import UserError
from mmtrtvit.compat import CONFIG_ROOT
from mmtrtvit.deploy.backends import backend_names
from mmtrtvit.deploy.config import TASKS, load_deploy_config

SHIPPED = sorted(path.stem for path in (CONFIG_ROOT / 'deploy').glob('*.py'))
NAME = re.compile(
    r'(?P<task>detection|instance-seg|segmentation|classification)_(?P<backend>onnxruntime|tensorrt-rtx|tensorrt)'
    r'(-(?P<precision>fp16|int8))?_static-(?P<height>\d+)x(?P<width>\d+)'
)
GOOD = """
codebase_config = dict(task='detection')
onnx_config = dict(height=64, width=96)
backend_config = dict(type='onnxruntime')
"""


def write(folder: Path, text: str) -> str:
    path = folder / 'mine.py'
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize('name', SHIPPED)
def test_what_a_config_that_comes_along_says_is_in_its_name(name: str) -> None:
    said = NAME.fullmatch(name)
    assert said, name
    cfg = load_deploy_config(f'deploy/{name}.py')
    assert cfg.task == {'instance-seg': 'instance-segmentation'}.get(said['task'], said['task'])
    assert cfg.backend == said['backend']
    assert cfg.build.precision == (said['precision'] or 'fp32')
    assert cfg.graph.shape == (int(said['height']), int(said['width']))
    assert cfg.graph.batch_size == 1
    assert cfg.graph.nms.form == ('onnx' if cfg.backend == 'onnxruntime' else 'static')
    assert cfg.graph.roi_align == 'static'
    assert cfg.dynamic_batch is False


def test_helpers_of_the_file_are_no_sections(tmp_path: Path) -> None:
    helpers = 'size = 64\nsizes = dict(height=size, width=size + 32)\n'
    cfg = load_deploy_config(write(tmp_path, helpers + GOOD.replace('dict(height=64, width=96)', 'sizes')))
    assert cfg.graph.shape == (64, 96)


def test_new_style(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD)
    (tmp_path / 'child.py').write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n    from .mine import *\n\n'
        'from mmtrtvit.deploy.ops import nms\n\nsizes = dict(height=32)\nonnx_config.update(sizes)\n'
    )
    assert load_deploy_config(base).graph.shape == (64, 96)
    assert load_deploy_config(str(tmp_path / 'child.py')).graph.shape == (32, 96)


def test_there_is_one_for_each_task_backend_and_precision() -> None:
    found = {NAME.fullmatch(name).group('task', 'backend', 'precision') for name in SHIPPED}
    wanted = {
        (task, backend, precision)
        for task in ('detection', 'instance-seg', 'segmentation', 'classification')
        for backend in ('onnxruntime', 'tensorrt', 'tensorrt-rtx')
        for precision in (None, 'fp16', 'int8')
    }
    assert found == wanted


def test_every_field_has_its_place(tmp_path: Path) -> None:
    cfg = load_deploy_config(
        write(
            tmp_path,
            """
codebase_config = dict(task='instance-segmentation', max_dets=50)
onnx_config = dict(height=64, width=96, batch_size=2, image_dtype='uint8', opset_version=21, dynamic_batch=True)
backend_config = dict(
    type='tensorrt', precision='fp16', optimization_level=4, workspace_mib=512, timing_cache='t.cache', batch=(1, 2, 4),
    load=dict(cuda_graph=True),
    operators=dict(nms=dict(form='loop', pre_top_k=500, rounds=8), roi_align='onnx', roi_sampling_ratio=2))
calib_config = dict(images=8, method='entropy', split='val')
""",
        )
    )
    assert (cfg.task, cfg.backend, cfg.opset, cfg.dynamic_batch) == ('instance-segmentation', 'tensorrt', 21, True)
    assert (cfg.graph.max_dets, cfg.graph.shape, cfg.graph.batch_size, cfg.graph.image_dtype) == (
        50,
        (64, 96),
        2,
        'uint8',
    )
    assert (cfg.graph.nms.form, cfg.graph.nms.pre_top_k, cfg.graph.nms.rounds) == ('loop', 500, 8)
    assert (cfg.graph.roi_align, cfg.graph.roi_sampling_ratio) == ('onnx', 2)
    assert (cfg.build.precision, cfg.build.optimization_level, cfg.build.workspace_mib) == ('fp16', 4, 512)
    assert (cfg.build.timing_cache, cfg.build.batch) == ('t.cache', (1, 2, 4))
    assert cfg.load.cuda_graph is True
    assert (cfg.calibration.images, cfg.calibration.method, cfg.calibration.split) == (8, 'entropy', 'val')


def test_options_of_the_command_line_are_merged(tmp_path: Path) -> None:
    name = write(tmp_path, GOOD)
    cfg = load_deploy_config(name, {'onnx_config.batch_size': 3, 'backend_config.operators.nms.form': 'loop'})
    assert cfg.name == name
    assert (cfg.graph.batch_size, cfg.graph.nms.form) == (3, 'loop')


WRONG: list[tuple[dict[str, Any], str]] = [
    ({'codebase_config.task': 'detections'}, rf"codebase_config\.task='detections' is not one of {', '.join(TASKS)}"),
    ({'codebase_config.max_det': 5}, r'codebase_config has no max_det; did you mean max_dets\?'),
    ({'codebase_config.max_dets': 0}, r'codebase_config, onnx_config and .*: max_dets=0: a whole number of at least 1'),
    ({'onnx_config.heigth': 64}, r'onnx_config has no heigth; did you mean height\?'),
    ({'onnx_config.width': 9.5}, r'width=9\.5: a whole number of at least 1 is needed'),
    ({'onnx_config.image_dtype': 'uint16'}, r"image_dtype='uint16' is not one of float32, uint8"),
    (
        {'backend_config.type': 'openvino'},
        rf"backend_config\.type='openvino' is not one of {', '.join(backend_names())}",
    ),
    ({'backend_config.precision': 'bf16'}, r"backend_config: .*precision='bf16': must be one of 'fp32', 'fp16'"),
    ({'backend_config.presicion': 'fp16'}, r'backend_config has no presicion; did you mean precision\?'),
    ({'backend_config.load.cuda_grph': True}, r'backend_config\.load has no cuda_grph; did you mean cuda_graph\?'),
    ({'backend_config.operators.nsm': {}}, r'backend_config\.operators has no nsm; did you mean nms\?'),
    ({'backend_config.operators.nms.form': 'plugin'}, r"operators\.nms: .*form='plugin' is not one of static, loop"),
    ({'backend_config.operators.nms.pre_top_k': 5000}, r'operators\.nms: .*k=5000 is not within 1 \.\. 3840'),
    ({'backend_config.operators.nms.pre_top_k': 'all'}, r"operators\.nms: .*k='all' is not within 1 \.\. 3840"),
    ({'backend_config.operators.nms.rounds': 'all'}, r"operators\.nms: .*rounds='all'; two at least"),
    ({'backend_config.batch': 4}, r'backend_config: .*batch=4: must be three whole numbers'),
    ({'backend_config.compute_capabilities': 8.6}, r'compute_capabilities=8\.6: must be a list of texts such as'),
    ({'onnx_config.height.x': 3}, r'height'),
    ({'backend_config.operators.roi_align': 'plugin'}, r"roi_align='plugin' is not one of static, onnx"),
    ({'calib_config.images': 0}, r'calib_config: images=0: a whole number of at least 1 is needed'),
    ({'calib_config.method': 'kl'}, r"calib_config: method='kl' is not one of entropy, percentile, minmax"),
    ({'calib_config.split': 'valid'}, r"calib_config: split='valid' is not one of train, val, test"),
    ({'onnx_config': 64}, r'onnx_config=64 is no dict'),
    ({'onnx_config.opset_version': 3}, r'onnx_config\.opset_version=3: a whole number of at least 20 is needed'),
    ({'onnx_config.opset_version': '20'}, r"onnx_config\.opset_version='20': a whole number"),
    ({'onnx_config.dynamic_batch': 'maybe'}, r"onnx_config\.dynamic_batch='maybe' is neither True nor False"),
    ({'backend_config.operators': 5}, r'backend_config\.operators=5 is no dict'),
    ({'backend_config.operators.nms': 'static'}, r"backend_config\.operators\.nms='static' is no dict"),
    ({'backend_config.load': 3}, r'backend_config\.load=3 is no dict'),
    ({'calib_config': 'train'}, r"calib_config='train' is no dict"),
    ({'partition_config': dict(type='x')}, r'partition_config is no section of a deploy config'),
    ({'calib_confg.images': 4}, r'calib_confg is no section of a deploy config; did you mean calib_config'),
]


@pytest.mark.parametrize(('options', 'message'), WRONG)
def test_a_mistake_is_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf'mine\.py: {message}|mine\.py.*{message}'):
        load_deploy_config(write(tmp_path, GOOD), options)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("model = dict(type='RetinaNet')", r'is a model config: the deploy config comes first, then the model config'),
        (
            GOOD.replace('onnx_config', 'other'),
            r'has no onnx_config: it is no deploy config; those that come along are in',
        ),
        ('x = 1', r'has no codebase_config: it is no deploy config'),
        (GOOD.replace('height=64, ', ''), r'lacks height'),
    ],
)
def test_a_file_that_is_no_deploy_config(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_deploy_config(write(tmp_path, text))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r'deploy/detection_onnxruntim_static-320x320\.py'):
        load_deploy_config('deploy/detection_onnxruntim_static-320x320.py')
