"""The checks of a config's data before a model is built or a file written."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from ..configs import leaves, type_name
from ..data.files import IMAGES
from ..errors import UserError, listing
from .annotations import Tally, check_sizes, read_coco, read_masks, read_names, read_xml

_SET_ROOT = 'point at your copy with --cfg-options data_root=FOLDER'

#: Where the data can be found, by a part of its folder's name.
_SOURCES = {
    'coco': 'get train2017.zip, val2017.zip and annotations_trainval2017.zip from '
    'https://cocodataset.org and unpack them side by side, or',
    'voc': 'get the VOCtrainval and VOCtest archives from http://host.robots.ox.ac.uk/pascal/VOC and '
    'unpack them side by side, or',
    'toy': 'mnv2 toy FOLDER writes the toy data set;',
}

#: Parts of a model whose ``num_classes`` counts the classes of the data set.
_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def check_data(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Checks the files, annotations and classes that a config names for some of ``train``, ``val`` and ``test``.

    COCO's and VOC's data sets, images with masks and wrappers around them are checked; of others only the folders and
    files that they name. Data behind a remote ``backend_args`` is left alone.

    Returns:
        What there is and what of it is used: a line for each data set.

    Raises:
        UserError: Something is missing, contradicts itself or does not fit; the message names the config key and the
            path.
    """
    known: dict[str, Tally | None] = {}  # by data set: validation and test mostly use the same
    lines: list[str] = []
    first: tuple[str, list[str]] | None = None
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        tallies: list[Tally | None] = []
        classes: list[str] = []
        for key, dataset in leaves(f'{split}_dataloader.dataset', loader['dataset']):
            kind = _dataset_class(key, dataset, cfg.get('default_scope'))
            names = ('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo', 'filter_cfg')
            identity = repr([dataset.get(name) for name in names])
            if identity not in known:
                try:
                    known[identity] = tally = _read(key, dataset, kind, cfg.get('default_scope'))
                except UserError as error:
                    raise UserError(str(error) if key in str(error) else f'{key}: {error}') from error
                lines += [f'{key}: {tally.summary}'] if tally else []
            tallies.append(_limited(known[identity], dataset.get('indices')))
            classes = _classes(key, dataset, kind) or []
            first = first or (key, classes)
            if classes != first[1]:
                raise UserError(
                    f'{key} has the classes {listing(classes, 5)}, {first[0]} {listing(first[1], 5)}: must be the same'
                )
            head = (cfg.get('model') or {}).get('decode_head')
            if isinstance(head, Mapping) and head.get('ignore_index', 255) != dataset.get('ignore_index', 255):
                raise UserError(f'{key}.ignore_index and model.decode_head.ignore_index differ: must be the same')
            if classes:
                _check_num_classes(cfg.get('model'), 'model', len(classes), key)
        _check_used(split, loader, tallies, classes)
        _check_evaluators(cfg, split)
    return lines


def _check_used(split: str, loader: Mapping, tallies: Sequence[Tally | None], classes: Sequence[str]) -> None:
    read = [tally for tally in tallies if tally]
    if len(read) < len(tallies):
        return
    images, text = sum(tally.images for tally in read), '; '.join(tally.summary for tally in read)
    images *= loader['dataset'].get('times', 1)
    counters = [tally.used for tally in read if tally.used is not None]
    if not images or (counters and not any(counters)):
        raise UserError(f'{split}_dataloader: nothing is used: {text}')
    batch = loader.get('batch_size', 1) * int(os.environ.get('WORLD_SIZE', 1))
    if loader.get('drop_last') and images < batch:
        raise UserError(
            f'{split}_dataloader: {images} images do not fill one batch of {batch} and drop_last=True drops what is '
            f'left; set {split}_dataloader.batch_size or {split}_dataloader.drop_last=False'
        )
    unused = [name for name in classes if counters and not any(counter[name] for counter in counters)]
    if split == 'train' and unused:
        raise UserError(
            f'{split}_dataloader: there is nothing to learn the class(es) {listing(unused, 5)} from: {text}. Correct '
            'the annotations, or take these classes out of metainfo and num_classes'
        )


def _limited(tally: Tally | None, indices: int | Sequence[int] | None) -> Tally | None:
    """With no more images than the option ``indices`` of a data set leaves."""
    if tally is None or indices is None:
        return tally
    return replace(tally, images=min(tally.images, indices if isinstance(indices, int) else len(indices)))


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
    """The layout that a data set reads, by the classes whose methods do it, which are not imported for it."""
    methods = (getattr(kind, name, _family) for name in ('load_data_list', 'parse_data_info'))
    readers = {method.__qualname__.partition('.')[0] for method in methods} - {'BaseDataset'}
    known = {'CocoDataset': 'coco', 'XMLDataset': 'voc', 'BaseSegDataset': 'masks'}
    return known.get(readers.pop(), 'other') if len(readers) == 1 else 'other'


def _hint(path: Path) -> str:
    sources = [text for name, text in _SOURCES.items() if name in str(path).lower()]
    return ' '.join([*sources[:1], _SET_ROOT])


def _read(key: str, dataset: Mapping, kind: type, scope: str | None) -> Tally | None:
    """Checks the files of a data set and counts what is in them, if its layout is known."""
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
    path = root / (dataset.get('ann_file') or '')
    if not path.exists():
        raise UserError(f'{key}.ann_file: {path} does not exist; {_hint(root)}')
    classes = _classes(key, dataset, kind)
    options = dataset.get('filter_cfg') or {}
    if family == 'masks':
        return _read_masks(dataset, scope, classes)
    if family == 'coco':
        boxes, images = read_coco(path, classes), prefix.get('img', root)
    elif family == 'voc':
        base = prefix.get('sub_data_root', root)
        images, xml = base / dataset.get('img_subdir', 'JPEGImages'), base / dataset.get('ann_subdir', 'Annotations')
        for folder in (images, xml):
            if not folder.is_dir():
                raise UserError(f'{key}: the folder {folder} does not exist; {_SET_ROOT}')
        names = read_names(path)
        _check_exist(path, [xml / f'{name}.xml' for name in names])
        boxes = read_xml(xml, names, classes or [])
    else:
        return None
    files = [images / file for file in boxes.files]
    _check_exist(path, files)
    check_sizes(files, boxes.sizes)
    return boxes.tally({} if dataset.get('test_mode') else options)


def _read_masks(dataset: Mapping, scope: str | None, classes: Sequence[str] | None) -> Tally | None:
    with DATASETS.switch_scope_and_registry(scope) as registry:
        reader = registry.build(dict(dataset, lazy_init=True, pipeline=[]))
    infos = reader.load_data_list()
    if not infos:
        raise UserError(f'no image in {reader.data_prefix["img_path"]} ends in {reader.img_suffix} (img_suffix)')
    _check_exist(reader.ann_file, [Path(info['img_path']) for info in infos])
    steps = [step for step in dataset.get('pipeline') or () if step['type'].endswith('LoadAnnotations')]
    if not steps or classes is None or not all('seg_map_path' in info for info in infos):
        return None
    _check_exist(reader.ann_file or reader.data_prefix['img_path'], [Path(info['seg_map_path']) for info in infos])
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        load = registry.build(steps[0])
    tally = read_masks(infos, load, classes, reader.ignore_index)
    names = () if dataset.get('ann_file') else (x.name for x in Path(reader.data_prefix['img_path']).rglob('[!.]*.*'))
    others = [name for name in names if name.lower().endswith(IMAGES) and not name.endswith(reader.img_suffix)]
    if others:
        warning = f'; WARNING: {len(others)} images do not end in {reader.img_suffix} (img_suffix) and are not used: '
        tally = replace(tally, summary=tally.summary + warning + listing(others, 3))
    return tally


def _classes(key: str, dataset: Mapping, kind: type) -> list[str] | None:
    own = (dataset.get('metainfo') or {}).get('classes')
    if own is None:
        own = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    if isinstance(own, str):
        if not Path(own).is_file():
            raise UserError(f'{key}.metainfo.classes is the text {own!r}; write a tuple of names: ({own!r}, )')
        own = Path(own).read_text().splitlines()
    if own is not None and len(set(own)) < len(own):
        raise UserError(
            f'{key}.metainfo.classes: {listing([x for x in set(own) if list(own).count(x) > 1])} occurs twice'
        )
    return None if own is None else list(own)


def _check_exist(listed_in: object, files: Sequence[Path]) -> None:
    # One listing per folder: asking for 118 000 files one by one takes minutes on a network disk.
    content: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, name = os.path.split(file)
        if parent not in content:
            content[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in content[parent]:
            missing.append(file)
    if missing:
        raise UserError(
            f'{len(missing)} of {len(files)} files listed in {listed_in} do not exist: {listing(missing, 3)}; put them '
            'there or correct data_prefix'
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
        for key, dataset in leaves(f'{split}_dataloader.dataset', cfg[f'{split}_dataloader'].dataset):
            own = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            if isinstance(path, str) and own.is_file() and not own.samefile(path):
                raise UserError(f'{split}_evaluator.ann_file is {path}, {key} has {own}: must be the same file')
            ignored = (evaluator.get('ignore_index', 255), dataset.get('ignore_index', 255))
            if type_name(evaluator).endswith('IoUMetric') and ignored[0] != ignored[1]:
                raise UserError(
                    f'{split}_evaluator.ignore_index is {ignored[0]}, that of {key} {ignored[1]}: must be the same'
                )
