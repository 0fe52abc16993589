"""The checks of a config's data before a model is built or a file written."""

import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..errors import UserError, listing

_SET_ROOT = 'point at your copy with --cfg-options data_root=FOLDER'

#: Where the data can be found, by a part of its folder's name.
_SOURCES = {
    'coco': 'get train2017.zip, val2017.zip and annotations_trainval2017.zip from '
    'https://cocodataset.org and unpack them side by side, or',
    'voc': 'get the VOCtrainval and VOCtest archives from http://host.robots.ox.ac.uk/pascal/VOC and '
    'unpack them side by side, or',
    'toy': 'python tools/make_toy_dataset.py FOLDER writes the toy data set;',
}

#: Parts of a model whose ``num_classes`` counts the classes of the data set.
_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')

#: XML files that are read for the class names of a data set.
_XML_SAMPLE = 200


def check_data(cfg: Config, splits: Iterable[str]) -> None:
    """Checks the files, classes and class counts that a config names for some of ``train``, ``val`` and ``test``.

    COCO's and VOC's data sets, images with masks and wrappers around them are checked; of others only the folders and
    files that they name. Data behind a remote ``backend_args`` is left alone.

    Raises:
        UserError: Something is missing or does not fit; the message names the config key, the path and a way out.
    """
    counts: dict[str, int | None] = {}  # by data set: validation and test mostly use the same
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        images: list[int | None] = []
        for key, dataset in _leaves(f'{split}_dataloader.dataset', loader['dataset']):
            kind = _dataset_class(key, dataset, cfg.get('default_scope'))
            parts = ('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo')
            identity = repr([dataset.get(part) for part in parts])
            if identity not in counts:
                counts[identity] = _check_dataset(key, dataset, kind)
            images.append(counts[identity])
            classes = _classes(key, dataset, kind)
            if classes is not None:
                _check_num_classes(cfg.get('model'), 'model', len(classes), key)
        _check_batch(split, loader, images)
        _check_evaluators(cfg, split)


def _check_batch(split: str, loader: Mapping, images: Sequence[int | None]) -> None:
    known = [count for count in images if count is not None]
    batch = loader.get('batch_size', 1) * int(os.environ.get('WORLD_SIZE', 1))
    if loader.get('drop_last') and known == list(images) and sum(known) < batch:
        raise UserError(
            f'{split}_dataloader: {sum(known)} images do not fill one batch of {batch} and drop_last=True '
            f'drops what is left; set {split}_dataloader.batch_size or {split}_dataloader.drop_last=False'
        )


def _leaves(key: str, dataset: Mapping) -> Iterator[tuple[str, Mapping]]:
    if isinstance(dataset.get('datasets'), Sequence):
        for number, part in enumerate(dataset['datasets']):
            yield from _leaves(f'{key}.datasets.{number}', part)
    elif isinstance(dataset.get('dataset'), Mapping):
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset


def _dataset_class(key: str, dataset: Mapping, scope: str | None) -> type:
    name = dataset.get('type')
    if isinstance(name, type):
        return name
    with DATASETS.switch_scope_and_registry(scope) as registry:
        found = registry.get(name) if isinstance(name, str) else None
    if found is None:
        raise UserError(f'{key}.type: no data set is called {name!r} (default_scope is {scope!r})')
    return found


def _family(kind: type) -> str:
    """The layout that the data set reads, by MMDetection's base classes, which are not imported for it."""
    names = {base.__name__ for base in kind.__mro__}
    known = {'CocoDataset': 'coco', 'XMLDataset': 'voc', 'BaseSegDataset': 'masks'}
    return next((family for name, family in known.items() if name in names), 'other')


def _hint(path: Path) -> str:
    sources = [text for name, text in _SOURCES.items() if name in str(path).lower()]
    return ' '.join([*sources[:1], _SET_ROOT])


def _check_dataset(key: str, dataset: Mapping, kind: type) -> int | None:
    """Returns the number of images that the data set lists, if its layout is known."""
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    if backend != 'local' or '://' in str(dataset.get('data_root')):
        return None  # remote
    family = _family(kind)
    root = Path(dataset.get('data_root') or '')
    if not root.is_dir():
        raise UserError(f'{key}.data_root: the folder {root} does not exist; {_hint(root)}')
    prefix = {name: root / path for name, path in (dataset.get('data_prefix') or {}).items() if isinstance(path, str)}
    for name, folder in prefix.items():
        if not folder.is_dir():
            raise UserError(f'{key}.data_prefix.{name}: the folder {folder} does not exist; {_hint(root)}')
    ann_file = dataset.get('ann_file')
    if not isinstance(ann_file, str) or not ann_file:
        return _check_masks(key, dataset, kind, prefix, root) if family == 'masks' else None
    path = root / ann_file
    if not path.exists():
        raise UserError(f'{key}.ann_file: {path} does not exist; {_hint(root)}')
    if family == 'masks':
        return _check_masks(key, dataset, kind, prefix, path)
    classes = _classes(key, dataset, kind)
    if family == 'coco':
        return _check_coco(key, path, prefix.get('img', root), classes)
    if family == 'voc':
        base = prefix.get('sub_data_root', root)
        folders = (base / dataset.get('img_subdir', 'JPEGImages'), base / dataset.get('ann_subdir', 'Annotations'))
        return _check_voc(key, path, *folders, classes)
    return None


def _classes(key: str, dataset: Mapping, kind: type) -> list[str] | None:
    own = (dataset.get('metainfo') or {}).get('classes')
    if own is None:
        own = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    if isinstance(own, str):
        if not Path(own).is_file():
            raise UserError(f'{key}.metainfo.classes is the text {own!r}; write a tuple of names: ({own!r}, )')
        own = Path(own).read_text().splitlines()
    return None if own is None else list(own)


def _check_coco(key: str, path: Path, images: Path, classes: list[str] | None) -> int:
    expected = 'a COCO annotation file is JSON with the lists images, annotations and categories'
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, IsADirectoryError) as error:
        raise UserError(f'{key}.ann_file: {path} is not JSON ({error}); {expected}') from error
    for part in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f'{key}.ann_file: {path} has no list {part!r}; {expected}')
    if not content['images']:
        raise UserError(f'{key}.ann_file: {path} lists no images')
    try:
        names = [category['name'] for category in content['categories']]
        files = [image['file_name'] for image in content['images']]
        for annotation in content['annotations'][:1]:
            _ = annotation['image_id'], annotation['category_id'], annotation['bbox']
    except (KeyError, TypeError) as error:
        raise UserError(f'{key}.ann_file: {path} is not a COCO detection file, an entry has no {error}') from error
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise UserError(
            f'{key}: the class(es) {listing(unknown, 5)} are not in {path}, which has {listing(names, 100)}; '
            'set metainfo=dict(classes=(...)) of the data set'
        )
    in_order = [name for name in names if name in (classes or names)]
    if classes is not None and in_order != classes:
        # MMDetection numbers classes in the order of the file: in any other order, names would be swapped.
        raise UserError(
            f'{key}: the classes {listing(classes, 100)} have another order than in {path}; '
            f'set metainfo=dict(classes=...) to {tuple(in_order)!r}'
        )
    _check_exist(key, path, images, files)
    return len(files)


def _check_masks(key: str, dataset: Mapping, kind: type, prefix: Mapping[str, Path], path: Path) -> int | None:
    """Checks that every image of one of MMSegmentation's data sets has its mask; returns their number."""
    defaults = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    options = ('img_suffix', 'seg_map_suffix')
    suffixes = [dataset.get(name, defaults[name].default if name in defaults else None) for name in options]
    images = prefix.get('img_path')
    if images is None or not all(isinstance(suffix, str) for suffix in suffixes):
        return None
    listed = path if path.is_file() else images
    if path.is_file():
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        _check_exist(key, listed, images, [name + suffixes[0] for name in names])
    else:
        found = (file.relative_to(images).as_posix() for file in images.rglob(f'*{suffixes[0]}'))
        names = sorted(name.removesuffix(suffixes[0]) for name in found)
    if not names:
        raise UserError(f'{key}: there are no images in {listed} whose names end in {suffixes[0]} (img_suffix)')
    if 'seg_map_path' in prefix:
        _check_exist(key, listed, prefix['seg_map_path'], [name + suffixes[1] for name in names])
    return len(names)


def _check_voc(key: str, path: Path, images: Path, annotations: Path, classes: list[str] | None) -> int:
    try:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f'{key}.ann_file: {path} is not a list of image names, one a line ({error})') from error
    if not names:
        raise UserError(f'{key}.ann_file: {path} lists no images')
    for folder in (images, annotations):
        if not folder.is_dir():
            raise UserError(f'{key}: the folder {folder} does not exist; {_SET_ROOT}')
    _check_exist(key, path, annotations, [f'{name}.xml' for name in names])
    _check_exist(key, path, images, [f'{name}.jpg' for name in names])
    found: set[str] = set()
    for name in names[:_XML_SAMPLE]:
        try:
            tree = ElementTree.parse(annotations / f'{name}.xml')
        except ElementTree.ParseError as error:
            raise UserError(f'{key}: {annotations / name}.xml is not XML: {error}') from error
        found.update(element.text or '' for element in tree.iterfind('object/name'))
    if classes is not None and found and not found.intersection(classes):
        raise UserError(
            f'{key}: none of the classes {listing(classes, 100)} is in {annotations}, '
            f'which has {listing(sorted(found), 100)}; set metainfo=dict(classes=(...)) of the data set'
        )
    return len(names)


def _check_exist(key: str, listed_in: Path, folder: Path, files: Sequence[str]) -> None:
    # One listing per folder: asking for 118 000 files one by one takes minutes on a network disk.
    content: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, name = os.path.split(file)
        if parent not in content:
            where = folder / parent
            content[parent] = set(os.listdir(where)) if where.is_dir() else set()
        if name not in content[parent]:
            missing.append(file)
    if missing:
        raise UserError(
            f'{key}: {len(missing)} of {len(files)} files listed in {listed_in} are not in {folder}: '
            f'{listing(missing, 3)}; unpack the images there or correct data_prefix'
        )


def _check_num_classes(node: Any, path: str, count: int, key: str, in_head: bool = False) -> None:
    if isinstance(node, Mapping):
        number = node.get('num_classes')
        if in_head and isinstance(number, int) and number != count:
            raise UserError(
                f'{path}.num_classes is {number}, but {key} has {count} classes; set them to the same number'
            )
        for name, child in node.items():
            _check_num_classes(child, f'{path}.{name}', count, key, in_head=name in _HEADS)
    elif isinstance(node, (list, tuple)):
        for number, child in enumerate(node):
            _check_num_classes(child, f'{path}.{number}', count, key, in_head)


def _check_evaluators(cfg: Config, split: str) -> None:
    evaluators = cfg.get(f'{split}_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        path = evaluator.get('ann_file')
        if isinstance(path, str) and '://' not in path and not Path(path).exists():
            raise UserError(f'{split}_evaluator.ann_file: {path} does not exist; {_SET_ROOT}')
