"""Package ``mmtrtvit``: the library, its configs, and the stand-in for mmcv's compiled ops.

Two things beyond an ordinary package:

* ``configs/`` and the tools travel in the wheel as ``mmtrtvit/.mim/``, where OpenMMLab's users look, and each
  config gets a bridge module ``mmtrtvit/configs/<name>.py`` for new-style configs (``with read_base():``).
* ``mmcv/_ext.py`` is laid beside mmcv-lite's modules, so that ``mmcv.ops`` imports without a compiler. Python
  prefers an extension module to a source file of the same name: a compiled mmcv wins.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION: dict[str, str] = {}
exec((ROOT / 'mmtrtvit' / 'version.py').read_text(encoding='utf-8'), VERSION)

# No import statement: mmengine would turn what it imports into a lazy object, in a virtual environment even the
# standard library's.
BRIDGE = '''"""New-style bridge: ``with read_base(): from {module} import *``."""

globals().update(__import__('mmtrtvit.compat.config_scope', fromlist=['*']).load_as_namespace('{name}'))
'''


class BuildWithConfigs(build_py):
    """Put configs, tools and bridge modules into the package that is built."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout reads its configs and tools in place
            write_bridges(ROOT / 'mmtrtvit' / 'configs')
            return
        package = Path(self.build_lib) / 'mmtrtvit'
        for folder in ('configs', 'tools'):
            target = package / '.mim' / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        shutil.copy(ROOT / 'model-index.yml', package / '.mim' / 'model-index.yml')
        write_bridges(package / 'configs')


def write_bridges(folder: Path) -> None:
    """One bridge module a config; a name's hyphens become underscores, as a module's name needs."""
    shutil.rmtree(folder, ignore_errors=True)
    for config in sorted((ROOT / 'configs').rglob('*.py')):
        name = config.relative_to(ROOT / 'configs').as_posix()
        module = name.replace('-', '_')
        bridge = folder / module
        bridge.parent.mkdir(parents=True, exist_ok=True)
        dotted = 'mmtrtvit.configs.' + module.removesuffix('.py').replace('/', '.')
        bridge.write_text(BRIDGE.format(name=name, module=dotted), encoding='utf-8')


DEPLOY = ['onnx>=1.18', 'onnx-ir>=0.1.8', 'onnxscript>=0.5', 'onnxruntime>=1.22']

setup(
    name='mmtrtvit',
    version=VERSION['__version__'],
    description='TRT-ViT for dense prediction on OpenMMLab, from training to the deployed engine',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['mmtrtvit', 'mmtrtvit.*']),
    package_dir={'mmcv': 'mmtrtvit/compat/overlay/mmcv'},
    py_modules=['mmcv._ext'],
    package_data={'mmtrtvit': ['py.typed', 'benchmark/*.json', 'benchmark/report/page/*']},
    cmdclass={'build_py': BuildWithConfigs},
    install_requires=[
        'torch>=2.9',
        'torchvision>=0.24',
        'mmengine>=0.10.7,<0.11',
        'mmcv-lite>=2.1.0,<2.2.0',
        'mmdet>=3.3.0,<3.4',
        'mmsegmentation>=1.2.2,<1.3',
        'mmpretrain>=1.2.0,<1.3',
        'numpy>=1.26,<3',
        'opencv-python>=4.10',
        'pycocotools>=2.0.8',
        'rich>=13',
        'setuptools>=77.0.3,<82',  # mmengine 0.10.7 imports pkg_resources, gone from 82 on
        'ftfy>=6',  # mmseg 1.2.2 and mmpretrain 1.2.0 import both without saying so
        'regex',
    ],
    extras_require={
        'deploy': DEPLOY,
        'rtx': [*DEPLOY, 'tensorrt-rtx-cu13-bindings>=1.7', 'tensorrt-rtx-cu13-libs>=1.7'],
        'tensorrt': [*DEPLOY, 'tensorrt>=10.12'],
        # Next-ViT and RegNetY are timm's
        'benchmark': [*DEPLOY, 'timm>=1.0.12', 'matplotlib>=3.7', 'jinja2>=3.1', 'scipy>=1.12'],
        'dev': [
            'pytest>=8',
            'pytest-xdist>=3.6',
            'hypothesis>=6.100',
            'ruff>=0.9',
            'mypy>=1.13',
        ],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
