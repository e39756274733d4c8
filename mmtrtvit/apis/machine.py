"""What a measurement means nothing without: the hardware, the versions, the clocks and who else was at work."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmtrtvit.version import __version__

__all__ = ['Activity', 'clocks', 'cores', 'cpu_name', 'hardware', 'now', 'versions']

#: Distributions whose version may change a number.
PACKAGES = (
    'torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain', 'timm', 'numpy',
    'onnx', 'onnxscript', 'onnxruntime', 'onnxruntime-gpu', 'tensorrt', 'tensorrt-rtx-cu13-bindings', 'opencv-python',
    'opencv-python-headless',
)  # fmt: skip
_STAT = Path('/proc/stat')
_GPU_FACTS = (
    'driver_version',
    'clocks.sm',
    'clocks.mem',
    'clocks.max.sm',
    'temperature.gpu',
    'power.draw',
    'utilization.gpu',
)


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's name as its maker prints it."""
    names = _cpuinfo('model name')
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of mmtrtvit, Python, the system and every installed package of :data:`PACKAGES`."""
    found = {
        'mmtrtvit': __version__,
        'python': platform.python_version(),
        'system': f'{platform.system()} {platform.machine()}',
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found['torch'] = torch.__version__  # tells the build too, as in 2.14.1+cu130
    if torch.version.cuda and torch.cuda.is_available():
        found['cuda'] = torch.version.cuda
        found['cudnn'] = str(torch.backends.cudnn.version())
    return found


def hardware(device: str | torch.device = 'cpu') -> dict[str, Any]:
    """CPU, cores, memory and, of a CUDA device, name, compute capability, memory and driver."""
    found: dict[str, Any] = {
        'cpu': cpu_name(),
        'cores': cores(),
        'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
    }
    target = torch.device(device)
    if target.type == 'cuda':
        facts = torch.cuda.get_device_properties(target)
        found |= {
            'gpu': facts.name,
            'compute_capability': f'{facts.major}.{facts.minor}',
            'gpu_memory_gib': round(facts.total_memory / 2**30, 1),
            'driver': _smi(target).get('driver_version', ''),
        }
    return found


def clocks(device: str | torch.device = 'cpu') -> dict[str, Any]:
    """Clock of the CPU in MHz, load average and, of a CUDA device, what nvidia-smi tells of its clocks and heat."""
    rates = [float(rate) for rate in _cpuinfo('cpu MHz')]
    found: dict[str, Any] = {'load_average': round(os.getloadavg()[0], 2)}
    if rates:
        found['cpu_mhz'] = round(sum(rates) / len(rates))
    target = torch.device(device)
    if target.type == 'cuda':
        found['gpu'] = {name: value for name, value in _smi(target).items() if name != 'driver_version'}
    return found


def _cpuinfo(key: str) -> list[str]:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return []
    return [line.partition(':')[2].strip() for line in lines if line.startswith(key)]


def _smi(device: torch.device) -> dict[str, str]:
    """What nvidia-smi says of a GPU; empty where it is not installed or fails."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return {}
    # torch's numbers follow CUDA_VISIBLE_DEVICES, nvidia-smi's do not; the UUID is the same for both
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    asked = [program, f'--query-gpu={",".join(_GPU_FACTS)}', '--format=csv,noheader,nounits', f'--id=GPU-{uuid}']
    try:
        text = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    row = next(csv.reader(text.splitlines()), [])
    return dict(zip(_GPU_FACTS, (value.strip() for value in row), strict=False))


@dataclass(frozen=True)
class Activity:
    """How busy others' work keeps the cores that this process may use, between :meth:`begin` and :meth:`others`.

    Attributes:
        wall: Clock at the beginning, s.
        busy: Time that these cores have worked since the machine started, s.
        own: Time that this process and its children have worked, s.
    """

    wall: float
    busy: float
    own: float

    @classmethod
    def begin(cls) -> Activity:
        """Begin to watch."""
        return cls(time.perf_counter(), _busy_seconds(), _own_seconds())

    def others(self) -> float | None:
        """Cores that other processes kept busy since the beginning, on average; None where nothing tells."""
        spent = time.perf_counter() - self.wall
        if self.busy < 0 or spent <= 0:
            return None
        return max(0.0, ((_busy_seconds() - self.busy) - (_own_seconds() - self.own)) / spent)


def _busy_seconds() -> float:
    """From /proc/stat: user, nice, system, irq, softirq and steal of the cores this process may use; -1 without it."""
    mine = {f'cpu{core}' for core in os.sched_getaffinity(0)} if hasattr(os, 'sched_getaffinity') else {'cpu'}
    try:
        lines = [line.split() for line in _STAT.read_text(encoding='ascii').splitlines()]
        ticks = [[int(value) for value in words[1:9]] for words in lines if words and words[0] in mine]
        busy = [sum(core) - core[3] - core[4] for core in ticks]  # without idle and iowait
    except (OSError, IndexError):
        return -1.0
    return sum(busy) / os.sysconf('SC_CLK_TCK') if busy else -1.0


def _own_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
