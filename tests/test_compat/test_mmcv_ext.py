"""Who supplies ``mmcv._ext``, in which order, and what the ops say that nobody supplies."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, PathFinder, SourceFileLoader
from pathlib import Path

import pytest
import torch
from mmcv.utils import ext_loader

import mmtrtvit
from mmtrtvit.compat import mmcv_ext, mmcv_ops
from mmtrtvit.compat.mmcv_ext import MissingOpError

OVERLAY = Path(mmtrtvit.__file__).parent / 'compat' / 'overlay' / 'mmcv' / '_ext.py'


def python(code: str, *args: str | Path) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, '-W', 'ignore', '-c', code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_mmcv_loads_the_stand_in() -> None:
    """In every process that has imported mmtrtvit, however it is installed."""
    ops = importlib.import_module('mmcv.ops.nms')
    assert ops.ext_module is mmcv_ext
    assert sys.modules['mmcv._ext'] is mmcv_ext
    assert importlib.import_module('mmcv._ext') is mmcv_ext
    assert ext_loader.check_ops_exist() is True


def test_every_name_that_mmcv_asks_for_is_there() -> None:
    import mmcv.ops as ops

    assert len(ops.__all__) > 100
    assert callable(ops.roi_align)


def test_install_is_idempotent() -> None:
    for _ in range(2):
        mmcv_ops.install()
        mmtrtvit.compat.install()
    assert sum(isinstance(finder, mmcv_ops.StandInFinder) for finder in sys.meta_path) == 1


def test_finder_finds_one_name_only() -> None:
    finder = mmcv_ops.StandInFinder()
    spec = finder.find_spec('mmcv._ext')
    assert spec is not None
    assert spec.origin == 'mmtrtvit.compat.mmcv_ext'
    for name in ('mmcv', 'mmcv.ops', 'mmcv._ext2', '_ext', 'mmdet._ext'):
        assert finder.find_spec(name) is None


def test_import_is_lazy() -> None:
    code = """
import sys, mmtrtvit
assert isinstance(sys.meta_path[-1], mmtrtvit.compat.mmcv_ops.StandInFinder), sys.meta_path
loaded = [name for name in ('mmcv.ops', 'mmcv._ext', 'mmtrtvit.compat.mmcv_ext') if name in sys.modules]
import mmcv.ops
print(loaded, sys.modules['mmcv._ext'].__name__)
"""
    assert python(code) == '[] mmtrtvit.compat.mmcv_ext'


def test_checkout_that_is_not_installed() -> None:
    """On PYTHONPATH alone: neither the wheel's file nor setuptools' finder of an installation in place is there."""
    code = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in getattr(finder, '__name__', '')]
sys.path.insert(0, sys.argv[1])
from importlib.util import find_spec
import mmcv
before = find_spec('mmcv._ext')
import mmtrtvit, mmcv.ops
print(before, sys.modules['mmcv._ext'].__name__, mmcv.ops.nms.__module__)
"""
    root = Path(mmtrtvit.__file__).parents[1]
    if (Path(importlib.import_module('mmcv').__file__).parent / '_ext.py').exists():
        pytest.skip("mmtrtvit is installed from its wheel here: the wheel's file is beside mmcv's")
    assert python(code, root) == 'None mmtrtvit.compat.mmcv_ext mmcv.ops.nms'


def test_mmdet_before_mmtrtvit_with_the_wheels_layout(tmp_path: Path) -> None:
    """The wheel lays the overlay into mmcv's folder; here that folder is extended by one that holds it."""
    shutil.copy(OVERLAY, tmp_path)
    code = """
import sys, mmcv
mmcv.__path__.append(sys.argv[1])
assert 'mmtrtvit' not in sys.modules
import mmdet.apis
first = sys.modules['mmcv._ext']
import mmtrtvit, mmcv.ops, mmseg.apis, mmpretrain.apis
from mmengine.registry import MODELS
from mmtrtvit.compat import mmcv_ext
assert mmcv.ops.nms.__module__ == 'mmcv.ops.nms'
print(first is mmcv_ext is sys.modules['mmcv._ext'], MODELS.get('TRTViT').__name__)
"""
    assert python(code, tmp_path) == 'True TRTViT'


def test_mmcv_ops_alone_with_the_wheels_layout(tmp_path: Path) -> None:
    """A script that never names mmtrtvit gets the ops and the other mends."""
    shutil.copy(OVERLAY, tmp_path)
    code = """
import sys, mmcv
mmcv.__path__.append(sys.argv[1])
import torch
from mmcv.ops import nms
kept = nms(torch.tensor([[0., 0, 4, 4], [0, 0, 4, 5]]), torch.tensor([0.5, 0.9]), 0.5)[1].tolist()
from mmengine.config import Config
print(kept, Config._get_cfg_path._mmtrtvit)
"""
    assert python(code, tmp_path) == '[1] True'


def test_finder_leaves_what_others_supply_alone(tmp_path: Path) -> None:
    (tmp_path / '_ext.py').write_text("marker = 'compiled'\n")
    code = """
import sys, mmtrtvit, mmcv
mmcv.__path__.insert(0, sys.argv[1])
import mmcv._ext
print(mmcv._ext.marker, mmcv._ext.__name__)
"""
    assert python(code, tmp_path) == 'compiled mmcv._ext'


@pytest.mark.parametrize('suffix', EXTENSION_SUFFIXES)
def test_a_compiled_extension_wins_over_the_overlay(tmp_path: Path, suffix: str) -> None:
    shutil.copy(OVERLAY, tmp_path)
    spec = PathFinder.find_spec('mmcv._ext', [str(tmp_path)])
    assert spec is not None
    assert isinstance(spec.loader, SourceFileLoader)
    (tmp_path / f'_ext{suffix}').touch()
    PathFinder.invalidate_caches()
    spec = PathFinder.find_spec('mmcv._ext', [str(tmp_path)])
    assert spec is not None
    assert isinstance(spec.loader, ExtensionFileLoader)


def test_missing_op_explains_itself_when_called() -> None:
    import mmcv.ops

    boxes = torch.tensor([[5.0, 5, 4, 2, 0.3]])
    with pytest.raises(MissingOpError) as error:
        mmcv.ops.box_iou_rotated(boxes, boxes)
    message = str(error.value)
    for part in ("mmcv op 'box_iou_rotated'", 'mmcv 2.1.0 from source', torch.__version__, '-std=c++20'):
        assert part in message
    assert isinstance(error.value, NotImplementedError)


@pytest.mark.parametrize(
    ('name', 'alternative'), [('sync_bn_forward_mean', "type='SyncBN'"), ('carafe_forward', "'nearest'")]
)
def test_missing_op_names_an_alternative(name: str, alternative: str) -> None:
    with pytest.raises(MissingOpError, match=name) as error:
        getattr(mmcv_ext, name)(1, key=2)
    assert alternative in str(error.value)


def test_names_that_are_no_ops() -> None:
    for name in ('__wrapped__', '__path_hooks__', '_private'):
        assert not hasattr(mmcv_ext, name)
    assert mmcv_ext.some_op is mmcv_ext.some_op
    assert mmcv_ext.some_op.__name__ == 'some_op'


def test_environment_report() -> None:
    from mmcv.utils import collect_env

    report = collect_env()
    assert report['MMCV Compiler'].startswith('not compiled (mmtrtvit on torchvision 0.')
    assert report['MMCV CUDA Compiler'] == (torch.version.cuda or 'not available')
