"""Look for the data before the model is built: what is missing is said at once, in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmtrtvit.apis.errors import UserError

#: Parsing COCO's own 450 MB takes 15 s and the data set does it anyway; above this only the first character counts.
_PARSED_BYTES = 64 * 2**20

_DEMO = '`make demo` needs no download'
_LAYOUTS = {
    'Coco': (
        'COCO is laid out as {root}/annotations/instances_train2017.json and instances_val2017.json, '
        '{root}/train2017/*.jpg and {root}/val2017/*.jpg (https://cocodataset.org/#download)'
    ),
    'ADE20K': (
        'ADE20K is laid out as {root}/images/{{training,validation}}/*.jpg and '
        '{root}/annotations/{{training,validation}}/*.png (ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu)'
    ),
    'ImageNet': (
        'ImageNet is laid out as {root}/train/<class>/*.JPEG and {root}/val/<class>/*.JPEG (https://image-net.org)'
    ),
}


#: The lists of a COCO file and what each of their entries must have.
_COCO = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
#: What each of them is, and so what to write.
_GIVES = {
    'id': 'a number of its own', 'file_name': 'the file below data_prefix.img', 'height': 'of the image, pixels',
    'width': 'of the image, pixels', 'image_id': 'the id of its image', 'category_id': 'the id of its category',
    'bbox': '[x, y, width, height] in pixels', 'area': 'of the object in pixels, or width x height of its bbox',
    'iscrowd': '1 for a region of many objects, else 0', 'name': 'the class',
    'segmentation': 'polygons or RLE, which this config reads; without them take a config without masks',
}  # fmt: skip
#: Data sets of mmpretrain that fetch themselves what is missing, unless told not to.
_DOWNLOADED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files and folders of all data sets of a config exist and that annotations can be read.

    Args:
        cfg: The merged config.
        splits: Which dataloaders and evaluators will be used: of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        UserError: Something is missing or not what it must be.
    """
    missing: dict[str, tuple[str, dict[str, Any]]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets(loader.get('dataset') if isinstance(loader, dict) else None):
            for needed in _paths(dataset):
                if not needed.exists():
                    missing.setdefault(str(needed), (f'{split}_dataloader', dataset))
        for metric in _metrics(cfg.get(f'{split}_evaluator')):
            file = metric.get('ann_file')
            if _local(file) and not Path(str(file)).exists():
                missing.setdefault(str(file), (f'{split}_evaluator', metric))
    if missing:
        path, (where, first) = next(iter(missing.items()))
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise UserError(
            f'missing data: {path} (needed by {where}, {first.get("type")}){more}. '
            f'{_layout(first)}. Set data_root, data_prefix and ann_file with --cfg-options, or: {_DEMO}'
        )
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets(loader.get('dataset') if isinstance(loader, dict) else None):
            if _is_coco(dataset):
                evaluator = list(_metrics(cfg.get(f'{split}_evaluator')))
                _check_coco(
                    dataset,
                    f'{split}_dataloader',
                    masks=_wants_masks(dataset, evaluator),
                    labelled=_is_labelled(dataset, split, evaluator),
                    judged=split != 'train',
                )


def _datasets(dataset: Any) -> Iterator[dict[str, Any]]:
    """The data sets within any wrappers (``RepeatDataset``, ``ConcatDataset``, ``MultiImageMixDataset``, ...)."""
    if isinstance(dataset, (list, tuple)):
        for each in dataset:
            yield from _datasets(each)
    elif isinstance(dataset, dict):
        inner = [dataset[key] for key in ('dataset', 'datasets') if key in dataset]
        if not inner:
            yield dataset
        for each in inner:
            yield from _datasets(each)


def _metrics(evaluator: Any) -> Iterator[dict[str, Any]]:
    if isinstance(evaluator, dict):
        yield evaluator
        yield from _metrics(evaluator.get('metrics'))
    elif isinstance(evaluator, (list, tuple)):
        for each in evaluator:
            yield from _metrics(each)


def _local(path: Any) -> bool:
    return isinstance(path, str) and bool(path) and '://' not in path and not path.startswith('s3:')


def _paths(dataset: dict[str, Any]) -> Iterator[Path]:
    """What a data set reads: annotation file, then folders, joined as mmengine's ``BaseDataset`` joins them."""
    root, kind = dataset.get('data_root') or '', _kind(dataset)
    if not _local(root or '.') or dataset.get('backend_args') or dataset.get('download', kind in _DOWNLOADED):
        return
    prefix = dataset.get('data_prefix') or ''
    folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    if kind.startswith('ImageNet') and dataset.get('split') and not prefix and not dataset.get('ann_file'):
        folders = [dataset['split']]
    for name in [dataset.get('ann_file') or '', *folders]:
        if isinstance(name, str) and name and _local(name):
            yield Path(root) / name
    if root and not dataset.get('ann_file') and not any(folders):
        yield Path(root)


def _kind(dataset: dict[str, Any]) -> str:
    """Return the name of a data set's class without its scope."""
    kind = dataset.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.split('.')[-1]


def _layout(dataset: dict[str, Any]) -> str:
    kind = str(dataset.get('type'))
    for name, layout in _LAYOUTS.items():
        if name in kind:
            return layout.format(root=str(dataset.get('data_root') or f'data/{name.lower()}').rstrip('/'))
    return 'Paths are data_root joined with ann_file and data_prefix'


def _is_coco(dataset: dict[str, Any]) -> bool:
    return _kind(dataset) == 'CocoDataset' and bool(dataset.get('ann_file'))


def _is_labelled(dataset: dict[str, Any], split: str, metrics: list[dict[str, Any]]) -> bool:
    """Whether annotations are needed: not of images that are only predicted for, or learnt from without labels."""
    if split == 'train':
        return bool((dataset.get('filter_cfg') or {}).get('filter_empty_gt', True))
    return not metrics or any(not metric.get('format_only') for metric in metrics)


def _wants_masks(dataset: dict[str, Any], metrics: list[dict[str, Any]]) -> bool:
    """Whether the masks of annotations are read, by the pipeline or by the evaluation."""
    steps = [step for step in dataset.get('pipeline') or () if isinstance(step, dict)]
    asked = [metric.get('metric') or () for metric in metrics]
    return any(step.get('with_mask') for step in steps) or any(
        'segm' in ([metric] if isinstance(metric, str) else metric) for metric in asked
    )


def _check_coco(dataset: dict[str, Any], where: str, *, masks: bool, labelled: bool, judged: bool) -> None:
    """An annotation file of COCO's form: JSON, its three lists, at least one image and one category asked for."""
    path = Path(dataset.get('data_root') or '') / dataset['ann_file']
    if path.is_dir():
        raise UserError(f'{path} ({where}) is a folder; ann_file must be a JSON file of COCO')
    document = _read_json(path, where)
    if document is None:
        return
    if not labelled:
        document.setdefault('annotations', [])
    absent = [key for key in _COCO if key not in document]
    if absent:
        raise UserError(
            f'{path} ({where}) has no {", ".join(absent)}: a detection data set of COCO is '
            '{"images": [...], "annotations": [...], "categories": [...]}'
        )
    wrong = [key for key in _COCO if not isinstance(document[key], list)]
    if wrong:
        raise UserError(
            f'{path} ({where}): {wrong[0]} is a {type(document[wrong[0]]).__name__}; COCO has a list of objects there, '
            f'each with {", ".join(_COCO[wrong[0]])}'
        )
    if not document['images']:
        raise UserError(f'{path} ({where}) lists no images: there is nothing to read')
    for key, needed in _COCO.items():
        _check_entries(document[key], key, needed, f'{path} ({where})')
    more = (('iscrowd',) if judged else ()) + (('segmentation',) if masks else ())
    _check_entries(document['annotations'], 'annotations', more, f'{path} ({where})')
    names = [str(category.get('name')) for category in document['categories']]
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes and not isinstance(classes, str) and not set(classes) & set(names):
        raise UserError(
            f'{path} ({where}): none of its categories ({", ".join(names[:5])}, ...) is among the classes of the '
            f'config ({", ".join(classes[:5])}, ...): set metainfo.classes of the data sets'
        )
    image = _folder(dataset) / str(document['images'][0].get('file_name'))
    if _local(str(image)) and not dataset.get('backend_args') and not image.is_file():
        raise UserError(
            f'{image} ({where}): the first image of {path} is not there: set data_prefix.img to their folder'
        )


def _check_entries(entries: list[Any], kind: str, needed: tuple[str, ...], file: str) -> None:
    """Each entry is an object with what mmdet and pycocotools read without looking whether it is there."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f'{file}: {kind}[{place}] is a {type(entry).__name__}, not an object')
    for key in needed:
        without = [place for place, entry in enumerate(entries) if entry.get(key) in (None, [], {}, '')]
        if without:
            raise UserError(
                f'{file}: {kind}[{without[0]}] has no {key}, {len(without)} of {len(entries)} have none: {_GIVES[key]}'
            )


def _folder(dataset: dict[str, Any]) -> Path:
    prefix = dataset.get('data_prefix') or {}
    return Path(dataset.get('data_root') or '') / (prefix.get('img') or '' if isinstance(prefix, dict) else prefix)


def _read_json(path: Path, where: str) -> dict[str, Any] | None:
    """The parsed file; None when it is too large to be parsed twice."""
    try:
        if path.stat().st_size > _PARSED_BYTES:
            with path.open('rb') as file:
                if file.read(64).lstrip()[:1] == b'{':
                    return None
            raise ValueError('does not begin with {')
        document = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(document, dict):
            raise ValueError(f'a {type(document).__name__}, not an object')
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors too
        raise UserError(f'{path} ({where}) is not a JSON annotation file of COCO: {error}') from error
    return document
