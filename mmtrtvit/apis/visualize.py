"""Pictures of what a model finds, beside the ground truth; drawn by mmdet's and mmseg's own visualizers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmtrtvit.apis.config import add_config_arguments, check_has_loop, check_has_model, default_work_dir, load_config
from mmtrtvit.apis.contact_sheet import Group, Panel, Pixels, compose, fit, resize
from mmtrtvit.apis.errors import UserError, run_tool
from mmtrtvit.apis.launch import build_runner, check_checkpoint, forget_training
from mmtrtvit.apis.preflight import check_data
from mmtrtvit.fileio import atomic_write_bytes

CELL = 400
"""Default length of an image's longer side on the picture, pixels."""
SMALLEST_TEXT = 9
"""Of the names in the picture of detections, points."""


class PictureError(ValueError):
    """A picture cannot be drawn as asked; the text says why and what to do."""


def draw_detections(
    model: nn.Module | None,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    count: int = 8,
    indices: Sequence[int] | None = None,
    score_thr: float = 0.5,
    cell: int = CELL,
    across: int = 2,
) -> Path:
    """Draw ground truth and detections side by side.

    Boxes, class names and, where the model predicts them, masks; regions that COCO marks as crowd are named so.

    Args:
        model: A detector of mmdet; None draws the ground truth alone.
        dataset: A data set of mmdet with the pipeline of testing.
        path: The ``.png`` to write.
        count: How many images, taken evenly from the whole data set.
        indices: Which images instead.
        score_thr: Detections that score no more are left out.
        cell: Length of an image's longer side on the picture, pixels; small images are enlarged.
        across: Pairs of images in a row.

    Returns:
        ``path``.

    Raises:
        PictureError: An argument is out of its range.
        OSError: The picture could not be written.
    """
    if not 0 <= score_thr <= 1:
        raise PictureError(f'score_thr={score_thr:g} is not within 0 .. 1')
    visualizer = det_visualizer()
    # mmdet takes a tuple for one colour, not for a palette.
    palette = dataset.metainfo.get('palette')
    visualizer.dataset_meta = {**dataset.metainfo, 'palette': None if palette is None else list(palette)}

    def group(index: int) -> Group:
        found = None if model is None else _predict(model, dataset, index).pred_instances.cpu()
        masks = found is None or 'masks' in found
        image, truth, name = _true_instances(dataset, index, masks)
        objects = 'no object' if len(truth) == 0 else _several(len(truth), 'object')
        panels = [Panel(paint_instances(visualizer, image, truth, cell), f'{name}: {objects}')]
        if found is not None:
            found = found[found.scores > score_thr]
            text = 'no detection' if len(found) == 0 else _several(len(found), 'detection')
            panels.append(Panel(paint_instances(visualizer, image, found, cell), text))
        return Group(panels)

    headings = ['Ground truth', f'Detections, score > {score_thr:g}']
    return _draw(path, dataset, model, group, headings, count, indices, cell, across)


def draw_segmentation(
    model: nn.Module | None,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    count: int = 8,
    indices: Sequence[int] | None = None,
    cell: int = CELL,
    across: int = 2,
) -> Path:
    """Draw true and predicted semantic masks side by side, with a legend of the classes that occur.

    Args:
        model: A segmentor of mmseg; None draws the ground truth alone.
        dataset: A data set of mmseg with the pipeline of testing.
        path: The ``.png`` to write.
        count: How many images, taken evenly from the whole data set.
        indices: Which images instead.
        cell: Length of an image's longer side on the picture, pixels; small images are enlarged.
        across: Pairs of images in a row.

    Returns:
        ``path``.

    Raises:
        PictureError: An argument is out of its range.
        OSError: The picture could not be written.
    """
    from mmseg.visualization import SegLocalVisualizer

    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    visualizer = SegLocalVisualizer(name='draw_segmentation', alpha=0.6)
    # Not through its constructor, which swaps the two (mmseg 1.2.2).
    visualizer.dataset_meta = {'classes': classes, 'palette': palette}

    def group(index: int) -> Group:
        image, truth, name = _true_map(dataset, index)
        maps = [truth]
        panels = [Panel(paint_map(visualizer, image, truth, cell), name)]
        if model is not None:
            found = _predict(model, dataset, index).pred_sem_seg.data[0].cpu().numpy()
            right = (truth == found)[truth < len(classes)]
            text = f'{100 * right.mean():.1f} % of the labelled pixels are right' if right.size else 'no labelled pixel'
            maps.append(found)
            panels.append(Panel(paint_map(visualizer, image, found, cell), text))
        present = sorted({int(label) for labels in maps for label in np.unique(labels) if label < len(classes)})
        return Group(panels, [(classes[label], palette[label]) for label in present])

    return _draw(
        path, dataset, model, group, ['Ground truth (dark: ignored)', 'Prediction'], count, indices, cell, across
    )


def draw_results(runner: Runner, path: str | os.PathLike[str], **options: Any) -> Path:
    """Draw what a runner's model finds on the runner's test images.

    Args:
        runner: Trained or tested; its model is used as it is.
        path: The ``.png`` to write.
        options: As for :func:`draw_detections` or :func:`draw_segmentation`, whichever fits the model.

    Returns:
        ``path``.

    Raises:
        PictureError: The model is neither a detector of mmdet nor a segmentor of mmseg.
    """
    from mmdet.models import BaseDetector
    from mmseg.models import BaseSegmentor

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if isinstance(model, BaseDetector):
        draw: Callable[..., Path] = draw_detections
    elif isinstance(model, BaseSegmentor):
        draw = draw_segmentation
    else:
        raise PictureError(
            f'cannot draw what a {type(model).__name__} finds: '
            'it is neither a detector of mmdet nor a segmentor of mmseg'
        )
    return draw(model, runner.test_loop.dataloader.dataset, path, **options)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of ``tools/visualize.py``."""
    parser = argparse.ArgumentParser(prog='visualize.py', allow_abbrev=False, description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; without one, the ground truth alone is drawn')
    parser.add_argument('--work-dir', help='folder of the log; default work_dirs/<config name>')
    parser.add_argument('--out', help='the .png to write; default visualize.png in the work dir')
    parser.add_argument('--count', type=int, default=8, help='images, taken evenly from the test set (%(default)s)')
    parser.add_argument('--indices', type=int, nargs='+', metavar='N', help='these images of the test set instead')
    parser.add_argument('--score-thr', type=float, default=0.5, help='least score of a detection (%(default)s)')
    parser.add_argument('--cell', type=int, default=CELL, help='longer side of an image, pixels (%(default)s)')
    parser.add_argument('--across', type=int, default=2, help='pairs of images in a row (%(default)s)')
    return parser.parse_args(argv)


def visualize(argv: Sequence[str]) -> Path:
    """Draw as the command line says; return the picture's path, which is printed too.

    Raises:
        UserError: An argument is out of its range, the data is missing, or the checkpoint does not exist or is that
            of another model.
    """
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_has_model(cfg)
    check_has_loop(cfg, 'test')
    if not args.checkpoint and cfg.get('default_scope') not in ('mmdet', 'mmseg'):
        raise UserError(
            f'{args.config} is of {cfg.get("default_scope")}: only data sets of mmdet and mmseg can be drawn'
        )
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    out = args.out or str(Path(cfg.work_dir) / 'visualize.png')
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.checkpoint:
        check_checkpoint(args.checkpoint)
    check_data(cfg, ('test',))
    options = {name: getattr(args, name) for name in ('count', 'indices', 'cell', 'across')}
    if cfg.get('default_scope') != 'mmseg':
        options['score_thr'] = args.score_thr
    try:
        runner = forget_training(build_runner(cfg, weights=(args.checkpoint, 0.5) if args.checkpoint else None))
        if args.checkpoint:
            runner.call_hook('before_run')  # an EMAHook makes there the copy that it fills when the weights come
            runner.load_or_resume()
            path = draw_results(runner, out, **options)
        else:
            draw = draw_segmentation if cfg.get('default_scope') == 'mmseg' else draw_detections
            path = draw(None, runner.test_loop.dataloader.dataset, out, **options)
    except PictureError as error:
        raise UserError(str(error)) from error
    print(path)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see :func:`mmtrtvit.apis.errors.run_tool` for the exit status."""
    run_tool(visualize, argv)


def _draw(
    path: str | os.PathLike[str],
    dataset: Any,
    model: nn.Module | None,
    group: Callable[[int], Group],
    headings: Sequence[str],
    count: int,
    indices: Sequence[int] | None,
    cell: int,
    across: int,
) -> Path:
    """Check the arguments before the model runs; then draw, compose and write."""
    if Path(path).suffix.lower() != '.png':
        raise PictureError(f'{os.fspath(path)}: the picture is a PNG, give it a name that ends in .png')
    for name, value, low in (('count', count, 1), ('cell', cell, 64), ('across', across, 1)):
        if value < low:
            raise PictureError(f'{name}={value} is less than {low}')
    chosen = choose(len(dataset), count) if indices is None else list(indices)
    if not chosen:
        raise PictureError('there is no image to draw: the data set or the list of indices is empty')
    for index in chosen:
        if not 0 <= index < len(dataset):
            raise PictureError(f'index {index}: the data set has the images 0 to {len(dataset) - 1}')
    with as_in_testing(model):
        groups = [group(index) for index in chosen]
    sheet = compose(headings[: len(groups[0].panels)], groups, cell, across)
    _, data = cv2.imencode('.png', sheet[:, :, ::-1])
    return atomic_write_bytes(path, bytes(data))


def choose(total: int, count: int) -> list[int]:
    """Return up to ``count`` different indices, spread evenly over ``range(total)``."""
    return [(2 * k + 1) * total // (2 * min(count, total)) for k in range(min(count, total))]


@contextmanager
def as_in_testing(model: nn.Module | None) -> Iterator[None]:
    """Put the model into eval mode and leave everything as it was found, the random numbers included.

    mmdet draws masks in colours jittered by numpy's global generator: seeded here, so that the same results give the
    same picture, and put back, so that drawing does not change what is trained afterwards.
    """
    state = np.random.get_state()
    training = model is not None and model.training
    np.random.seed(0)
    try:
        if model is not None:
            model.eval()
        yield
    finally:
        np.random.set_state(state)
        if model is not None:
            model.train(training)


def _predict(model: Any, dataset: Any, index: int) -> Any:
    """Return the data sample with the model's predictions, in pixels of the original image."""
    with torch.no_grad():
        return model.test_step(pseudo_collate([dataset[index]]))[0]


def det_visualizer() -> Any:
    """Return mmdet's visualizer with names that can be read."""
    from mmdet.visualization import DetLocalVisualizer

    class Legible(DetLocalVisualizer):
        """mmdet writes names of small objects in 6 points, which nobody can read: 9 at the least."""

        def draw_texts(self, texts: Any, positions: Any, font_sizes: Any = None, **options: Any) -> Any:
            return super().draw_texts(texts, positions, font_sizes=max(SMALLEST_TEXT, font_sizes or 0), **options)

    return Legible(name='draw_detections', line_width=2, alpha=0.55, text_color=(255, 255, 255))


def _true_instances(dataset: Any, index: int, masks: bool) -> tuple[Pixels, InstanceData, str]:
    """Return an image in RGB, its annotations in the image's own pixels, and the name of its file.

    The annotations are read here and not taken from the data set's pipeline, which may have scaled or dropped them.
    """
    from mmdet.datasets.transforms import LoadAnnotations

    info = dataset.get_data_info(index)
    image, loaded = _load_image(dataset, info)
    masks = masks and all('mask' in instance for instance in info['instances'])
    loaded = LoadAnnotations(with_bbox=True, with_mask=masks)(loaded)
    classes = dataset.metainfo['classes']
    truth = InstanceData()
    truth.bboxes = loaded['gt_bboxes'].tensor
    truth.labels = torch.from_numpy(loaded['gt_bboxes_labels'])
    if masks:
        truth.masks = torch.from_numpy(loaded['gt_masks'].to_ndarray().astype(bool))
    truth.label_names = [
        classes[label] + (' (crowd)' if ignored else '')
        for label, ignored in zip(loaded['gt_bboxes_labels'], loaded['gt_ignore_flags'], strict=True)
    ]
    return image, truth, Path(info['img_path']).name


def _true_map(dataset: Any, index: int) -> tuple[Pixels, np.ndarray, str]:
    """Return an image in RGB, its labels ``(H, W)`` with 255 for "ignored", and the name of its file."""
    from mmseg.datasets.transforms import LoadAnnotations

    info = dataset.get_data_info(index)
    image, loaded = _load_image(dataset, info)
    labels = LoadAnnotations()(loaded)['gt_seg_map']
    return image, labels, Path(info['img_path']).name


def _load_image(dataset: Any, info: dict[str, Any]) -> tuple[Pixels, dict[str, Any]]:
    from mmcv.transforms import LoadImageFromFile

    loaded = LoadImageFromFile(backend_args=getattr(dataset, 'backend_args', None))(info)
    return np.ascontiguousarray(loaded['img'][:, :, ::-1]), loaded


def paint_instances(visualizer: Any, image: Pixels, instances: InstanceData, cell: int) -> Pixels:
    """Draw boxes, masks and names on an image enlarged or reduced to ``cell``."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    old_height, old_width = image.shape[:2]
    height, width = fit(old_height, old_width, cell)
    image = resize(image, height, width)
    if len(instances) == 0:
        return image
    scaled = InstanceData(**dict(instances.items()))
    scale = torch.tensor([width / old_width, height / old_height] * 2)
    # A corner on or beyond the edge would make matplotlib zoom out.
    limit = torch.tensor([width - 1.0, height - 1.0] * 2)
    scaled.bboxes = (instances.bboxes * scale).clamp(min=torch.zeros(4), max=limit)
    if 'masks' in instances:
        bitmaps = BitmapMasks(instances.masks.numpy().astype(np.uint8), old_height, old_width)
        scaled.masks = torch.from_numpy(bitmaps.resize((height, width)).masks.astype(bool))
    visualizer.add_datasample('', image, DetDataSample(gt_instances=scaled), draw_pred=False)
    return visualizer.get_image()


def paint_map(visualizer: Any, image: Pixels, labels: np.ndarray, cell: int) -> Pixels:
    """Draw semantic labels on an image enlarged or reduced to ``cell``."""
    from mmseg.structures import SegDataSample

    height, width = fit(image.shape[0], image.shape[1], cell)
    labels = cv2.resize(labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels[None])))
    # The names stand in the legend: mmseg's own labels take a second a picture and hide small objects.
    visualizer.add_datasample('', resize(image, height, width), sample, draw_pred=False, with_labels=False)
    return visualizer.get_image()


def _several(number: int, noun: str) -> str:
    return f'{number} {noun}' + ('' if number == 1 else 's')
