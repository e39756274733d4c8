"""What a config's pipeline of testing does to the size of an image, as the fields of a letterbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmtrtvit.apis.config import dataset_of_test

#: Shorter edge over crop in the testing of ImageNet classifiers: 256 / 224.
EDGE_TO_CROP = 256 / 224


def step_name(step: Any) -> str:
    """Name of a pipeline's step without the scope: ``'Resize'`` for ``{'type': 'mmdet.Resize'}``."""
    kind = step.get('type') if isinstance(step, Mapping) else step
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', type(kind).__name__)
    return name.rsplit('.', 1)[-1]


def steps_of(model_cfg: Any) -> list[Any] | None:
    """The steps of a config's pipeline of testing, also within a wrapped data set; None where there are none."""
    pipeline = dataset_of_test(model_cfg).get('pipeline')
    return None if pipeline is None else list(pipeline)


def padding_of(model_cfg: Any) -> tuple[float, ...] | None:
    """Return the colour that a config's pipeline of testing pads with, BGR; None where its ``Pad`` is not used."""
    pads = [step for step in steps_of(model_cfg) or () if step_name(step) == 'Pad']
    if not pads:
        return None
    value = pads[-1].get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(part) for part in value)


def sizing_of_classifier(model_cfg: Any, height: int, width: int) -> dict[str, Any]:
    """The fields of a :class:`~mmtrtvit.deploy.preprocess.Letterbox` that size images as a classifier's testing does.

    Args:
        model_cfg: The config; None for what ImageNet's classifiers commonly do.
        height: Of the canvas, pixels; a crop of another size is scaled to it, and the edge with it.
        width: Of the canvas, pixels.
    """
    pipeline = steps_of(model_cfg)
    steps = {step_name(step): step for step in pipeline or ()}
    crop, edge, plain = steps.get('CenterCrop'), steps.get('ResizeEdge'), steps.get('Resize')
    first, canvas = steps.get('EfficientNetCenterCrop'), max(height, width)
    resize = first or edge or plain or {}
    usual = 'bilinear' if first is None else 'bicubic'
    how = {'interpolation': resize.get('interpolation', usual), 'resize_backend': resize.get('backend', 'cv2')}
    if first is not None:
        whole = first['crop_size'] + first.get('crop_padding', 32)
        return {'mode': 'crop-resize', 'short_edge': round(whole * canvas / first['crop_size']), **how}
    if crop is not None and edge is not None and edge.get('edge', 'short') == 'short':
        return {'mode': 'crop', 'short_edge': round(edge['scale'] * canvas / _longest(crop['crop_size'])), **how}
    if crop is not None and plain is not None and _is_square(plain):
        scale = _longest(plain['scale'])
        return {'mode': 'stretch-crop', 'short_edge': round(scale * canvas / _longest(crop['crop_size'])), **how}
    if crop is None and plain is not None and not plain.get('keep_ratio'):
        return {'mode': 'stretch', **how}
    if pipeline is None or crop is not None:
        return {'mode': 'crop', 'short_edge': round(EDGE_TO_CROP * canvas), **how}
    return how


def _longest(size: Any) -> int:
    return int(size if isinstance(size, int) else max(size))


def _is_square(resize: Mapping[str, Any]) -> bool:
    """Whether a ``Resize`` gives a square whatever the image."""
    scale: Any = resize.get('scale')
    return not resize.get('keep_ratio') and (isinstance(scale, int) or (bool(scale) and len(set(scale)) == 1))
