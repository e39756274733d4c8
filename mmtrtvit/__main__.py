"""``python -m mmtrtvit train CONFIG``: the tools where there is no checkout, only the installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

#: Word on the command line (also with hyphens): module of ``mmtrtvit``, purpose. ``tools/`` has the same names.
_TOOLS = {
    'train': ('apis.train', 'train a model'),
    'test': ('deploy.tools.test', 'evaluate a checkpoint or an engine'),
    'get_flops': ('apis.flops', 'count parameters and multiply-adds'),
    'print_config': ('apis.print_config', 'print a config with all it inherits'),
    'visualize': ('apis.visualize', 'draw what a checkpoint finds beside the ground truth'),
    'deploy': ('deploy.tools.deploy', 'turn a model into an engine and check it'),
    'profiler': ('deploy.tools.profiler', 'measure where the time of an engine goes'),
    'check_tensorrt': ('deploy.tools.check_tensorrt', 'what of TensorRT works on this machine'),
    'benchmark': ('benchmark.tools.benchmark', 'measure models side by side, and report'),
    'analyze_blocks': ('benchmark.tools.analyze_blocks', "measure blocks: the paper's guidelines on this machine"),
    'demo': ('apis.demo', 'generate images, train on them, evaluate, draw'),
}

#: Folders of tools that import what an extra of the same name brings.
_EXTRAS = ('deploy', 'benchmark')


def run(tool: str, argv: Sequence[str]) -> None:
    """Import a tool and hand it its command line: all that a file of ``tools/`` does.

    Args:
        tool: One of the tools above.
        argv: The words behind it.

    Raises:
        SystemExit: Status 2 where what it imports is not installed; what the tool itself ends with.
    """
    module = _TOOLS[tool][0]
    try:
        start = importlib.import_module(f'mmtrtvit.{module}').main
    except ModuleNotFoundError as error:
        extra = module.split('.')[0]
        if extra not in _EXTRAS or str(error.name).startswith('mmtrtvit'):
            raise
        print(f"error: {error}: pip install 'mmtrtvit[{extra}]'", file=sys.stderr)
        raise SystemExit(2) from None
    start(argv)


def main() -> None:
    """Run the tool that the first word of the command line names."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ''
    tool = wanted.replace('-', '_')
    if tool not in _TOOLS:
        tools = '\n'.join(f'  {name:16}{purpose}' for name, (_, purpose) in _TOOLS.items())
        usage = f'usage: python -m mmtrtvit TOOL ...   (TOOL --help for its arguments)\n{tools}'
        if wanted in ('-h', '--help'):
            print(usage)
            return
        print(f'{usage}\nerror: no tool {wanted!r}' if wanted else usage, file=sys.stderr)
        raise SystemExit(2)
    run(tool, sys.argv[2:])


if __name__ == '__main__':
    main()
