"""Make ``.venv`` and install mmtrtvit into it: what ``make setup`` runs.

Needs only the standard library, and is written so that an old Python can read it and say what is wrong.
A second call does nothing unless setup.py or constraints.txt changed; an interrupted call is taken up again.
"""

from __future__ import print_function

import hashlib
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 12)
NEEDED_GB = 9  # the environment with PyTorch's CUDA libraries is 6.1 GB, its downloads 2.5 GB
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, '.venv')
PYTHON = os.path.join(VENV, 'bin', 'python')
STAMP = os.path.join(VENV, '.mmtrtvit-installed')
INPUTS = ('setup.py', 'constraints.txt', 'pyproject.toml', os.path.join('tools', 'setup_env.py'))


def main():
    """Check, create, install, verify."""
    version = find_python()
    wanted = fingerprint(version)
    if is_installed(wanted):
        print('.venv is up to date')
        return
    check_disk()
    make_venv(version)
    install()
    check_opencv()
    run([PYTHON, '-c', 'import mmtrtvit, mmcv.ops, mmdet.models, mmseg.models, mmpretrain.models'], 'the import check')
    with open(STAMP, 'w') as stamp:
        stamp.write(wanted)
    print('Installed into .venv; `. .venv/bin/activate` puts it on your PATH')


def find_python():
    """The first usable interpreter: this one, else python3.12, 3.11 or 3.10 on the PATH."""
    # In an activated .venv, the interpreter that made it: the environment must not depend on itself.
    here = getattr(sys, '_base_executable', None) or sys.executable
    candidates = [here] + ['python%d.%d' % (3, minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    if os.environ.get('PYTHON'):
        candidates = [os.environ['PYTHON']]
    seen = []
    code = (
        'import sys; v = sys.version_info; '
        'print("%d.%d %s" % (v[0], v[1], getattr(sys, "_base_executable", sys.executable))); '
        'sys.stdout.flush(); import ensurepip, venv'
    )
    for candidate in candidates:
        try:
            pipe = subprocess.Popen([candidate, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            out, err = [text.decode('utf-8', 'replace').strip() for text in pipe.communicate()]
        except OSError as error:
            if os.environ.get('PYTHON'):
                seen.append('%s (%s)' % (candidate, error.strerror))
            continue
        if not out:  # a name without an interpreter behind it, as version managers leave
            if os.environ.get('PYTHON'):
                seen.append('%s (%s)' % (candidate, err.splitlines()[-1] if err else 'it printed nothing'))
            continue
        name, path = out.split(' ', 1)
        if not OLDEST <= tuple(int(part) for part in name.split('.')) <= NEWEST:
            seen.append('%s is Python %s' % (candidate, name))
        elif pipe.returncode != 0:
            seen.append('%s lacks the venv module (on Debian: python3-venv)' % candidate)
        else:
            return path
    fail(
        'Python %d.%d to %d.%d is needed. Found: %s.\nInstall one, or name it: make setup PYTHON=/path/to/python3.11'
        % (OLDEST + NEWEST + ('; '.join(seen) or 'none',))
    )


def fingerprint(python):
    """What was installed: the interpreter and the files that say what to install."""
    digest = hashlib.sha256(python.encode('utf-8'))
    digest.update(ROOT.encode('utf-8'))  # an environment does not survive a move
    for name in INPUTS:
        with open(os.path.join(ROOT, name), 'rb') as source:
            digest.update(source.read())
    # each config has a bridge module that the installation writes
    for folder, folders, names in os.walk(os.path.join(ROOT, 'configs')):
        folders.sort()
        digest.update(' '.join([os.path.relpath(folder, ROOT)] + sorted(names)).encode('utf-8'))
    return digest.hexdigest()


def is_installed(wanted):
    """Whether an earlier call finished with the same inputs."""
    if not os.path.isfile(STAMP) or not os.path.isfile(PYTHON):
        return False
    with open(STAMP) as stamp:
        return stamp.read() == wanted


def check_disk():
    """Refuse before pip fills the disk."""
    present = 0
    if os.path.isdir(VENV):
        present = sum(
            os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(VENV) for name in names
        )
    needed = NEEDED_GB * 2**30 - present
    stats = os.statvfs(ROOT)
    free = stats.f_bavail * stats.f_frsize
    if free < needed:
        fail(
            'The disk of %s has %.1f GB free, %.1f GB are needed for PyTorch and its CUDA libraries.\n'
            'Free some space, or put the checkout on another disk.' % (ROOT, free / 2.0**30, needed / 2.0**30)
        )


def make_venv(python):
    """A new environment, unless an interrupted call left a working one of the same Python."""
    if os.path.isfile(STAMP):
        os.remove(STAMP)
    if os.path.isfile(PYTHON) and same_version(python) and subprocess.call([PYTHON, '-m', 'pip', '--version']) == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    run([python, '-m', 'venv', VENV], 'creating .venv')


def same_version(python):
    """Whether .venv was made with this Python."""
    code = 'import sys; print(sys.version)'
    try:
        return subprocess.check_output([PYTHON, '-c', code]) == subprocess.check_output([python, '-c', code])
    except (OSError, subprocess.CalledProcessError):
        return False


def install():
    """The checkout in place, with exactly the versions that were tested."""
    pip = [PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', '-c', 'constraints.txt']
    run(pip + ['pip>=23', 'setuptools', 'wheel'], 'installing the build tools')
    run(pip + ['-e', '.[dev,rtx,benchmark]'], 'installing mmtrtvit')


def check_opencv():
    """Take OpenCV's build without a window system where the machine has no libGL, as containers do not."""
    if subprocess.call([PYTHON, '-c', 'import cv2'], stderr=subprocess.PIPE) == 0:
        return
    version = subprocess.check_output(
        [PYTHON, '-c', 'from importlib.metadata import version; print(version("opencv-python"))']
    )
    pip = [PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', '--force-reinstall', '--no-deps']
    run(pip + ['opencv-python-headless==' + version.decode('ascii').strip()], 'installing OpenCV without libGL')


def run(command, what):
    """Run one command in the checkout; its failure is ours, with the line to repeat it."""
    code = subprocess.call(command, cwd=ROOT)
    if code != 0:
        fail('%s failed with exit status %d. The command was:\n  %s' % (what, code, ' '.join(command)))


def fail(message):
    """One clear message and an exit status."""
    sys.stderr.write('setup: ' + message + '\n')
    sys.exit(1)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        fail('interrupted; the next `make setup` goes on from here')
