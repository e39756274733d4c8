"""An engine in mmengine's own test loop, and PyTorch on the engine's canvas: the same data, the same evaluator.

An engine has one canvas, so the steps of the test pipeline that size images are replaced by a letterbox; everything
else of the config stays, and results are in pixels of the original image. What the model's library does on that
canvas, :func:`use_letterbox`, is the fair reference for an engine: mmdet takes a padded canvas for the image when the
pipeline pads (its ``Pad``), and so does a static graph. Boxes are clipped to the original image on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmtrtvit.apis.config import dataset_of_test
from mmtrtvit.deploy.backends import EngineCard, LoadOptions, read_card
from mmtrtvit.deploy.inference import Classification, Detections, Engine, Postprocess, Segmentation, kind_of, load
from mmtrtvit.deploy.preprocess import Letterbox, Placement, clip_boxes
from mmtrtvit.deploy.sizing import sizing_of_classifier, step_name
from mmtrtvit.errors import UserError

__all__ = [
    'EngineModel',
    'EngineReport',
    'LetterboxResize',
    'adapt_pipeline',
    'check_classes',
    'letterbox_model',
    'use_engine',
    'use_letterbox',
]

#: Steps that size images; ``Pad`` too: how much is padded is the canvas's own, with what the letterbox knows.
_SIZING = {
    'CenterCrop', 'EfficientNetCenterCrop', 'FixShapeResize', 'Pad', 'Resize', 'ResizeEdge', 'ResizeShortestEdge',
    'ResizeToMultiple',
}  # fmt: skip
#: Library -> what its data preprocessors and results are like.
_KINDS = {'mmdet': Detections, 'mmseg': Segmentation, 'mmpretrain': Classification}


@TRANSFORMS.register_module()
class LetterboxResize(BaseTransform):
    """Resize an image to fit a canvas, as :meth:`mmtrtvit.deploy.preprocess.Letterbox.fit` does.

    Padding is left to what makes the batch. Annotations are left alone: in testing they are those of the original
    image, and so are the predictions.

    Args:
        settings: The fields of the :class:`~mmtrtvit.deploy.preprocess.Letterbox`.
    """

    def __init__(self, **settings: Any) -> None:
        self.letterbox = Letterbox(**settings)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize ``img``; sets ``img_shape``, ``pad_shape``, ``scale``, ``scale_factor``, ``keep_ratio``."""
        image, placement = self.letterbox.fit(results['img'])
        height, width = placement.img_shape
        results |= {
            'img': image, 'img_shape': placement.img_shape, 'pad_shape': placement.img_shape, 'scale': (width, height),
            'scale_factor': placement.scale_factor, 'keep_ratio': self.letterbox.mode != 'stretch',
        }  # fmt: skip
        return results

    def __repr__(self) -> str:
        return f'LetterboxResize({self.letterbox})'


@MODELS.register_module()
class EngineModel(BaseModel):
    """An engine as a model of mmengine that can be tested, and nothing else.

    Args:
        engine: The engine's file.
        device: Where it runs; None for its backend's usual place.
        backend: What runs it; None for the one it was built for.
        threads: CPU threads; None for the backend's choice.
        postprocess: The fields of :class:`~mmtrtvit.deploy.inference.Postprocess`; None for the card's.

    Attributes:
        engine: The loaded engine.
        images: How many images were run.
        inexact: On how many of them the engine could not prove that its suppression of duplicates is complete.
    """

    def __init__(
        self,
        engine: str,
        device: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
        postprocess: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # its data preprocessor is mmengine's plain one, which is not asked
        self.engine: Engine = load(engine, device, backend=backend, options=LoadOptions(threads=threads))
        if postprocess is not None:
            self.engine.postprocess = Postprocess(**postprocess)
        self.images = 0
        self.inexact = 0

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Predict; see :meth:`test_step`.

        Raises:
            NotImplementedError: Something else than predictions is asked for.
        """
        if mode != 'predict':
            raise NotImplementedError(f'mode={mode!r}: an engine only predicts')
        return self.test_step({'inputs': inputs, 'data_samples': data_samples})

    def test_step(self, data: Any) -> list[Any]:
        """Predict for one batch of the test loop.

        Args:
            data: ``inputs``: ``(3, h, w)`` uint8 images in BGR, resized to fit, as a list or stacked;
                ``data_samples``: those of the library, with ``ori_shape`` and, of detectors, ``scale_factor``.

        Returns:
            The same data samples with the predictions that the library's own ``predict`` puts there.
        """
        letterbox = self.engine.letterbox
        images = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in data['inputs']]
        found = self.engine.run([letterbox.fill(image) for image in images])
        samples = list(data['data_samples'])
        if self.engine.kind is Detections:
            from mmdet.models.utils.misc import samplelist_boxtype2tensor

            samplelist_boxtype2tensor(samples)  # as mmdet's data preprocessor does with the ground truth
        for outputs, image, sample in zip(found, images, samples, strict=True):
            result = self.engine.interpret(outputs, _placement(sample, image))
            self.images += 1
            self.inexact += isinstance(result, Detections) and not result.exact
            _WRITERS[type(result)](sample, result)
        return samples

    val_step = test_step


class EngineReport(Hook):
    """Say at the end of a test on how many images the engine's certificate was missing."""

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log it."""
        model: Any = runner.model
        if not isinstance(model, EngineModel) or model.engine.kind is not Detections:
            return
        if model.inexact:
            text = (
                f'{model.inexact} of {model.images} images: the engine could not prove that its suppression of '
                'duplicates is complete (output exact=False): raise operators.nms.pre_top_k or rounds in the deploy '
                'config if that costs accuracy'
            )
        else:
            text = f'suppression of duplicates proved complete on all {model.images} images'
        print_log(f'{model.engine.path}: {text}', logger='current', level=30 if model.inexact else 20)


def use_engine(
    cfg: Config,
    path: str,
    *,
    device: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> None:
    """Change a config so that its test is one of an engine.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; changed in place.
        path: The engine.
        device: As for :class:`EngineModel`.
        backend: As for :class:`EngineModel`.
        threads: As for :class:`EngineModel`.

    Raises:
        UserError: The engine does another task than the config, lacks the masks that the evaluator asks for, or has
            another number of classes.
        BackendError: Its card cannot be read.
    """
    if cfg.get('launcher', 'none') != 'none':
        raise UserError(f'--launcher {cfg.launcher}: an engine is evaluated in one process: leave it out')
    card = read_card(path)
    _check_task(cfg, card, path)
    adapt_pipeline(cfg, Letterbox.from_card(card, path))
    batch = card.inputs[0].shape[0]
    if not isinstance(batch, str):
        cfg.test_dataloader.batch_size = batch
    cfg.test_dataloader.collate_fn = {'type': 'pseudo_collate'}  # sizes differ: nothing to stack
    postprocess = asdict(Postprocess.from_config(cfg.get('model')))
    cfg.model = {
        'type': 'EngineModel', 'engine': str(path), 'device': device, 'backend': backend, 'threads': threads,
        'postprocess': postprocess,
    }  # fmt: skip
    cfg.load_from, cfg.resume = None, False
    cfg.pop('data_preprocessor', None)
    cfg.pop('compile', None)
    # EMA keeps a copy of the weights that an engine does not have
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if step_name(hook) != 'EMAHook']


def use_letterbox(cfg: Config, height: int, width: int) -> None:
    """Change a config so that PyTorch is tested on a canvas of one size; :func:`letterbox_model` does the rest.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain; changed in place.
        height: Of the canvas, pixels.
        width: Of the canvas, pixels.

    Raises:
        UserError: The config is of another library.
    """
    scope = str(cfg.get('default_scope'))
    if scope not in _KINDS:
        raise UserError(f'--letterbox: the config is of {scope}, not of {", ".join(_KINDS)}')
    sizing = sizing_of_classifier(cfg, height, width) if scope == 'mmpretrain' else {}
    adapt_pipeline(cfg, Letterbox(height, width, **sizing))
    cfg.test_dataloader.collate_fn = {'type': 'pseudo_collate'}
    if scope == 'mmseg':
        cfg.model.test_cfg = {'mode': 'whole'}
        cfg.test_dataloader.batch_size = 1  # mmseg stacks images of one size only


def letterbox_model(model: Any, letterbox: Letterbox) -> None:
    """Give a model of PyTorch the canvas for an image, as a static graph takes it; results clipped to the image.

    Args:
        model: As the runner has it; gets two hooks.
        letterbox: The size of the canvas and what it is padded with; the normalisation is the model's.
    """
    inner: Any = model.module if is_model_wrapper(model) else model
    colour = torch.zeros(1, 1, 1)
    if letterbox.pad is not None:
        colour = replace(Letterbox.from_model(inner, letterbox), pad=letterbox.pad).padding
    height, width = letterbox.height, letterbox.width

    def pad(module: nn.Module, args: Any, data: dict[str, Any]) -> dict[str, Any]:
        images: Tensor = data['inputs']  # the preprocessor pads to its own multiple
        canvas = (height, width)
        data['inputs'] = colour.to(images).expand(*images.shape[:2], *canvas).clone()
        for image, sample, filled in zip(images, data['data_samples'], data['inputs'], strict=True):
            inner_height, inner_width = sample.metainfo.get('img_shape', canvas)[:2]
            filled[:, :inner_height, :inner_width] = image[:, :inner_height, :inner_width]
            padding = (0, width - inner_width, 0, height - inner_height)  # left, right, top, bottom
            shapes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), canvas)
            sample.set_metainfo(shapes | dict.fromkeys(('padding_size', 'img_padding_size'), padding))
        return data

    def clip(module: nn.Module, args: Any, results: Any) -> Any:
        for sample in results if isinstance(results, list) else ():
            if 'pred_instances' in sample:
                found = sample.pred_instances
                found.bboxes = clip_boxes(found.bboxes, sample.ori_shape[:2])
        return results

    inner.data_preprocessor.register_forward_hook(pad)
    inner.register_forward_hook(clip)


def adapt_pipeline(cfg: Config, letterbox: Letterbox) -> None:
    """Replace the steps of the test pipeline that size images by a :class:`LetterboxResize`.

    A classifier's own steps stay where they give the canvas: they are what it was trained for.

    Raises:
        UserError: The data set has no pipeline in the config, or none that loads an image.
    """
    dataset = dataset_of_test(cfg)
    steps = list(dataset.get('pipeline') or ())
    names = [step_name(step) for step in steps]
    if letterbox.mode != 'letterbox' and _gives(steps, letterbox):
        return
    if 'TestTimeAug' in names:
        raise UserError(
            f'{cfg.filename}: test_dataloader.dataset.pipeline augments at test time, for which an engine has no '
            'place: set the plain test_pipeline'
        )
    sizing = [number for number, name in enumerate(names) if name in _SIZING]
    loading = [number for number, name in enumerate(names) if name.startswith('Load') and 'Image' in name]
    if not sizing and not loading:
        raise UserError(
            f'{cfg.filename}: test_dataloader.dataset.pipeline ({", ".join(names) or "empty"}) has no step that loads '
            'or resizes an image: there is no place for the letterbox'
        )
    place = sizing[0] if sizing else loading[0] + 1
    settings = {name: value for name, value in letterbox.to_dict().items() if name not in ('mean', 'std', 'to_rgb')}
    steps.insert(place, {'type': 'LetterboxResize', **settings})
    dataset.pipeline = [step for step in steps if step_name(step) not in _SIZING]


def check_classes(engine: EngineModel, dataset: Any) -> None:
    """Compare the classes of an engine with those of the data set it is tested on.

    Raises:
        UserError: Their numbers differ: labels would mean something else.
    """
    path, card = engine.engine.path, engine.engine.card
    wanted = tuple(str(name) for name in (getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
    if not wanted:
        return
    channels = [spec.shape[1] for spec in card.outputs if spec.name in ('logits', 'scores') and len(spec.shape) > 1]
    counts = [len(card.classes)] if card.classes else []
    if engine.engine.kind is not Detections:  # a decode head of one channel tells two classes apart
        counts += [size for size in channels if isinstance(size, int) and size != 1]
    for count in counts:
        if count != len(wanted):
            raise UserError(
                f'{path}: the engine knows {count} classes{_some(card.classes)}, the data set {len(wanted)}'
                f'{_some(wanted)}: it was made from another model (config in its card: {card.config})'
            )
    if card.classes and card.classes != wanted:
        pair = next((a, b) for a, b in zip(card.classes, wanted, strict=True) if a != b)
        print_log(
            f'{path}: its card calls a class {pair[0]!r} that the data set calls {pair[1]!r}: the figures only mean '
            'something if both are the same',
            logger='current', level=30,
        )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    return f' ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})' if names else ''


def _check_task(cfg: Config, card: EngineCard, path: str) -> None:
    """Refuse an engine of another task, and one without the masks that the evaluator wants."""
    kind, scope = kind_of(card, path), str(cfg.get('default_scope'))
    if scope not in _KINDS:
        raise UserError(f'{cfg.filename}: the config is of {scope}; engines are tested with {", ".join(_KINDS)}')
    if _KINDS[scope] is not kind:
        raise UserError(
            f'{path}: the engine gives {kind.__name__.lower()} ({", ".join(spec.name for spec in card.outputs)}), '
            f'the config {cfg.filename} is of {scope}: take the config in its card, {card.config}'
        )
    evaluators = cfg.get('test_evaluator') or []
    for metric in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        asked = metric.get('metric') or ()
        if 'segm' in ([asked] if isinstance(asked, str) else asked) and not any(
            s.name == 'masks' for s in card.outputs
        ):
            raise UserError(
                f'{path}: the engine has no masks and the evaluator asks for segm: deploy it with an '
                'instance-seg_*.py config, or --cfg-options test_evaluator.metric=bbox'
            )


def _gives(steps: Sequence[Any], letterbox: Letterbox) -> bool:
    """Whether a classifier's own steps end in the canvas."""
    sizes = [
        step.get('crop_size', step.get('scale'))
        for step in steps
        if step_name(step) in ('CenterCrop', 'EfficientNetCenterCrop', 'Resize') and not step.get('keep_ratio')
    ]
    if not sizes:
        return False
    last = sizes[-1]
    width, height = (last, last) if isinstance(last, int) else last or (0, 0)
    return (height, width) == (letterbox.height, letterbox.width)


def _placement(sample: Any, image: np.ndarray) -> Placement:
    """Where the pipeline put an image; detectors alone need the exact scale."""
    shape = (image.shape[0], image.shape[1])
    height, width = sample.metainfo.get('ori_shape', shape)[:2]
    scale = sample.metainfo.get('scale_factor') or (shape[1] / width, shape[0] / height)
    return Placement((float(scale[0]), float(scale[1])), shape, (int(height), int(width)))


def _write_detections(sample: Any, result: Detections) -> None:
    found = InstanceData(bboxes=result.boxes, scores=result.scores, labels=result.labels)
    masks = result.masks
    if masks is not None:
        found.masks = masks
    sample.pred_instances = found


def _write_segmentation(sample: Any, result: Segmentation) -> None:
    logits = result.logits
    if logits is not None:
        sample.set_data({'seg_logits': PixelData(data=logits)})
    sample.set_data({'pred_sem_seg': PixelData(data=result.label_map[None])})


def _write_classification(sample: Any, result: Classification) -> None:
    sample.set_pred_score(result.scores).set_pred_label(result.label)


_WRITERS: dict[type, Any] = {
    Detections: _write_detections,
    Segmentation: _write_segmentation,
    Classification: _write_classification,
}
