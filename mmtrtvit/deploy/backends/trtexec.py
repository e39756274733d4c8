"""The trtexec line that builds the same engine: for a report, a bug to send on, a comparison."""

from __future__ import annotations

import os
import shlex

from mmtrtvit.deploy.backends.options import BuildOptions

__all__ = ['trtexec_line']

_VERBOSITY = {'none': 'none', 'layer_names': 'layer_names_only', 'detailed': 'detailed'}
_HARDWARE = {'ampere_plus': 'ampere+', 'same_compute_capability': 'sameComputeCapability'}


def trtexec_line(
    options: BuildOptions,
    onnx: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    *,
    rtx: bool = False,
    profiles: dict[str, tuple[tuple[int, ...], ...]] | None = None,
    strongly_typed: bool = True,
) -> str:
    """Write the equivalent command line.

    Args:
        options: The build options.
        onnx: The graph.
        engine: The engine file.
        rtx: For TensorRT-RTX, whose program is ``tensorrt_rtx``.
        profiles: Least, usual and largest shapes of dynamic inputs; None for those in ``options.shapes``.
        strongly_typed: Whether to say so: TensorRT 10 needs it, 11 and RTX know nothing else.

    Returns:
        One line for a POSIX shell.
    """
    words = ['tensorrt_rtx' if rtx else 'trtexec', f'--onnx={os.fspath(onnx)}', f'--saveEngine={os.fspath(engine)}']
    if strongly_typed and not rtx:
        words.append('--stronglyTyped')
    if options.optimization_level is not None:
        words.append(f'--builderOptimizationLevel={options.optimization_level}')
    if options.workspace_mib is not None:
        words.append(f'--memPoolSize=workspace:{options.workspace_mib}M')
    if options.timing_cache is not None:
        words.append(f'--timingCacheFile={options.timing_cache}')
    if options.version_compatible:
        words.append('--versionCompatible')
    if options.hardware_compatible in _HARDWARE:
        words.append(f'--hardwareCompatibilityLevel={_HARDWARE[options.hardware_compatible]}')
    if options.compute_capabilities:
        words.append(f'--computeCapabilities={",".join(options.compute_capabilities)}')
    if options.max_aux_streams is not None:
        words.append(f'--maxAuxStreams={options.max_aux_streams}')
    if not options.tf32:
        words.append('--noTF32')
    words.append(f'--profilingVerbosity={_VERBOSITY[options.profiling]}')
    shapes = dict(options.shapes) if profiles is None else profiles
    for number, flag in enumerate(('--minShapes', '--optShapes', '--maxShapes') if shapes else ()):
        bounds = (f'{name}:{"x".join(map(str, shape[number]))}' for name, shape in shapes.items())
        words.append(f'{flag}={",".join(bounds)}')
    words.append('--skipInference')
    return shlex.join(words)
