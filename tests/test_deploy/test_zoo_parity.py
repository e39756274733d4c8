"""Models of the zoo, random weights, in ONNX Runtime against their own libraries' predictions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmtrtvit.apis.config import load_config
from mmtrtvit.deploy.config import load_deploy_config
from mmtrtvit.deploy.pipeline import deploy

#: Model config -> deploy config; the canvas is set besides.
MODELS = {
    'trtvit/retinanet_trtvit-a': 'detection_onnxruntime_static-320x320',
    'trtvit/mask_rcnn_trtvit-a': 'instance-seg_onnxruntime_static-320x320',
    'examples/cascade_rcnn_trtvit': 'detection_onnxruntime_static-320x320',
    'twins/retinanet_twins-svt-s': 'detection_onnxruntime_static-320x320',
    'swin/mask_rcnn_swin-t': 'instance-seg_onnxruntime_static-320x320',
    'trtvit/semantic_fpn_trtvit-a': 'segmentation_onnxruntime_static-512x512',
    'twins/upernet_twins-svt-s': 'segmentation_onnxruntime_static-512x512',
    'trtvit/trtvit-a_imagenet': 'classification_onnxruntime_static-224x224',
}


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_random_weights_agree(name: str, tmp_path: Path) -> None:
    """All within the tolerances of fp32: counts and labels, boxes, scores and masks, pixels, probabilities."""
    image = tmp_path / 'image.png'
    colours = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    cv2.imwrite(str(image), cv2.resize(colours, (320, 240), interpolation=cv2.INTER_CUBIC))
    size = {'onnx_config.height': 256, 'onnx_config.width': 320}
    made = deploy(load_deploy_config(MODELS[name], size), load_config(name), 'none', [str(image)], tmp_path / 'out')
    (verdict,) = made.parity.values()
    assert verdict.passed, verdict
    if 'detection' in MODELS[name] or 'instance' in MODELS[name]:
        assert verdict.detections == 100
