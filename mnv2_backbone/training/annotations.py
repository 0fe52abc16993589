"""What annotation files say, counted as MMDetection and MMSegmentation read them; contradictions are errors."""

import gc
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from mmengine.fileio import list_from_file
from PIL import Image

from ..data.files import evenly
from ..data.images import decoded_size, wrong_size
from ..errors import UserError, listing

#: How many images and masks are opened before training, evenly spread; the others are checked when they are used.
_SAMPLE = 400
_COCO = 'a COCO annotation file is JSON with the lists images, annotations and categories'
#: What it must have in each entry.
_NUMBER = (float, int)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    'images': dict(id=(int,), file_name=(str,), height=_NUMBER, width=_NUMBER),
    'annotations': dict(id=(int,), image_id=(int,), category_id=(int,), bbox=(list,), area=_NUMBER, iscrowd=(int,)),
    'categories': dict(id=(int,), name=(str,)),
}
#: What is too large to be read twice, and of no use here.
_POLYGONS = re.compile(r'"segmentation":\s*\[[^"{}]*\]')


@dataclass
class Tally:
    """How many images of a data set are used, and how many boxes of each class if it has boxes."""

    images: int
    used: Counter[str] | None
    summary: str


@dataclass
class Boxes:
    """The boxes of a data set.

    ``files`` are its images, ``sizes`` their (height, width) by the annotations, ``in_image`` how many boxes of the
    classes each has; ``used`` counts boxes by class, ``left_out`` the others by reason.
    """

    files: list[str]
    sizes: list[tuple[float, float]]
    in_image: list[int]
    used: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def tally(self, options: Mapping[str, Any]) -> Tally:
        """Counts; ``options`` are the data set's ``filter_cfg``."""
        small = [min(size) < options.get('min_size', 0) for size in self.sizes]
        kept = len(small) - sum(
            few or (not boxes and options.get('filter_empty_gt', False)) for few, boxes in zip(small, self.in_image)
        )
        empty, again = self.in_image.count(0), len(self.files) - len(set(self.files))
        images = f'{len(small)} images, {kept} used ({empty} have no boxes, {sum(small)} are too small)'
        images += f', WARNING: {again} are listed again' * bool(again)
        reasons = ', '.join(f'{count} {reason}' for reason, count in self.left_out.most_common())
        others = f' (the others: {reasons})' if reasons else ''
        classes = ', '.join(f'{name} {count}' for name, count in self.used.most_common())
        used = self.used.total()
        text = f'{images}; {used + self.left_out.total()} boxes, {used} used{others}: {classes or "none"}'
        return Tally(kept, self.used, text)


def read_coco(path: Path, classes: Sequence[str] | None) -> Boxes:
    """Reads a COCO file as ``CocoDataset`` does."""
    content, columns = _load_json(path), {}
    for part, fields in _FIELDS.items():
        columns[part] = table = {name: _column(path, part, content[part], name, kind) for name, kind in fields.items()}
        if len(set(table['id'])) < len(table['id']):
            twice = [number for number, count in Counter(table['id']).items() if count > 1]
            raise UserError(f'{path}: {part} has the id {listing(twice, 3)} more than once')
    images, boxes, categories = columns.values()
    if boxes['id'] and min(boxes['id']) < 1:
        raise UserError(f'{path}: annotations has the id {min(boxes["id"])}: COCO evaluates ids from 1 only')
    names = categories['name']
    _check_classes(path, names, classes)
    category = _rows(path, 'category_id', boxes['category_id'], categories['id'])
    image = _rows(path, 'image_id', boxes['image_id'], images['id'])
    corners = boxes['bbox']
    if set(map(len, corners)) - {4} or set(map(type, chain.from_iterable(corners))) - set(_NUMBER):
        odd = next(i for i, box in enumerate(corners) if len(box) != 4 or set(map(type, box)) - set(_NUMBER))
        raise UserError(f'{path}: annotations[{odd}].bbox is {corners[odd]!r}, must be [x, y, width, height]')
    numbers = np.fromiter(chain.from_iterable(corners), float).reshape(-1, 4)
    area = np.array(boxes['area'], float)
    if (infinite := ~np.isfinite(numbers).all(1) | ~np.isfinite(area)).any():
        raise UserError(f'{path}: annotations[{np.argmax(infinite)}] has a number that is not finite')
    x, y, w, h = numbers.T
    width, height = np.array(images['width'], float)[image], np.array(images['height'], float)[image]
    inside = (np.minimum(x + w, width) > np.maximum(x, 0)) & (np.minimum(y + h, height) > np.maximum(y, 0))
    reasons = {
        'of other classes': ~np.isin(category, [i for i, name in enumerate(names) if name in (classes or names)]),
        'marked ignore': np.array([bool(entry.get('ignore')) for entry in content['annotations']], bool),
        'without an area': (area <= 0) | (w < 1) | (h < 1),
        'outside their images': ~inside,
        'crowds': np.array([bool(crowd) for crowd in boxes['iscrowd']], bool),
    }
    reason = np.select(list(reasons.values()), range(1, len(reasons) + 1), 0)
    counts = np.bincount(reason, minlength=len(reasons) + 1).tolist()
    used = np.bincount(category[reason == 0], minlength=len(names)).tolist()
    return Boxes(
        files=images['file_name'],
        sizes=list(zip(images['height'], images['width'])),
        in_image=np.bincount(image[reason != 1], minlength=len(images['id'])).tolist(),
        used=Counter({name: count for name, count in zip(names, used) if count}),
        left_out=Counter({name: count for name, count in zip(reasons, counts[1:]) if count}),
    )


def _load_json(path: Path) -> dict[str, list]:
    gc.disable()  # it would look through millions of objects again and again
    try:
        content = json.loads(_POLYGONS.sub('"segmentation":0', path.read_text()))
    except (ValueError, OSError) as error:
        raise UserError(f'{path} is not JSON ({error}); {_COCO}') from error
    finally:
        gc.freeze()
        gc.enable()
    for part in _FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f'{path} has no list {part!r}; {_COCO}')
        if not set(map(type, content[part])) <= {dict}:
            raise UserError(f'{path}: {part} must be a list of objects; {_COCO}')
    if not content['images']:
        raise UserError(f'{path} lists no images')
    return content


def _column(path: Path, part: str, entries: list, name: str, kind: tuple[type, ...]) -> list:
    values = [entry.get(name) for entry in entries]
    if not set(map(type, values)) <= set(kind):
        for i, value in enumerate(values):
            if type(value) in kind:
                continue
            found = 'is missing' if value is None else f'is {value!r}'
            hint = {'area': ', width * height of the box', 'iscrowd': ', 0 for single objects'}.get(name, '')
            raise UserError(f'{path}: {part}[{i}].{name} {found}, must be {kind[0].__name__}{hint}')
    return values


def _rows(path: Path, name: str, ids: list[int], known: list[int]) -> np.ndarray:
    places = {number: i for i, number in enumerate(known)}
    rows = np.array([places.get(number, -1) for number in ids], int)
    if (rows < 0).any():
        bad = int(np.argmin(rows))
        raise UserError(f'{path}: annotations[{bad}].{name} is {ids[bad]}, an id that nothing has')
    return rows


def _check_classes(path: Path, names: list[str], classes: Sequence[str] | None) -> None:
    if twice := {name for name in names if names.count(name) > 1 and name in (classes or names)}:
        raise UserError(f'{path}: categories has the name {listing(sorted(twice), 3)} more than once')
    missing = [name for name in classes or () if name not in names]
    if missing:
        raise UserError(
            f'the class(es) {listing(missing, 5)} are not in {path}, which has {listing(names, 100)}; '
            'set metainfo=dict(classes=(...)) of the data set'
        )
    in_order = [name for name in names if name in (classes or names)]
    if classes is not None and in_order != list(classes):
        # MMDetection numbers classes in the order of the file: in any other order, names would be swapped.
        raise UserError(
            f'the classes {listing(classes, 100)} have another order than in {path}; '
            f'set metainfo=dict(classes=...) of all data sets to {tuple(in_order)!r}, or reorder its categories'
        )


def read_names(path: Path) -> list[str]:
    """The names in a list of images, one a line, as MMDetection reads them: to the last blank."""
    try:
        names: list[str] = list_from_file(str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f'{path} is not a list of image names, one a line ({error})') from error
    for number, name in enumerate(names, start=1):
        if name != name.strip('\ufeff \t') or not name:
            raise UserError(
                f'{path}, line {number}: {name!r} is no name of an image; remove what is before or after it'
            )
    if not names:
        raise UserError(f'{path} lists no images')
    return names


def read_xml(folder: Path, names: Sequence[str], classes: Sequence[str]) -> Boxes:
    """Reads one XML file for each name as ``XMLDataset`` does."""
    boxes = Boxes([f'{name}.jpg' for name in names], [], [])
    for path in (folder / f'{name}.xml' for name in names):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise UserError(f'{path} is not XML: {error}') from error
        width = height = math.inf  # the reader takes the image's
        if root.find('size') is not None:
            width, height = (_number(path, root, f'size/{side}', int) for side in ('width', 'height'))
        boxes.sizes.append((height, width))
        boxes.in_image.append(0)
        for number, thing in enumerate(root.findall('object')):
            entry = f'object[{number}]/'
            label = thing.findtext('name') or ''
            if label not in classes:
                boxes.left_out[f'of the class {label!r}'] += 1
                continue
            sides = [_number(path, thing, f'bndbox/{side}', float, entry) for side in ('xmin', 'ymin', 'xmax', 'ymax')]
            left, top, right, bottom = (int(side) - 1 for side in sides)
            boxes.in_image[-1] += 1
            if thing.find('difficult') is not None and _number(path, thing, 'difficult', int, entry):
                boxes.left_out['marked difficult'] += 1
            elif right <= left or bottom <= top:
                boxes.left_out['without an area'] += 1
            elif right <= 0 or bottom <= 0 or left >= width or top >= height:
                boxes.left_out['outside their images'] += 1
            else:
                boxes.used[label] += 1
    return boxes


def _number(path: Path, root: ElementTree.Element, place: str, kind: Callable[[Any], float], entry: str = '') -> float:
    text = root.findtext(place)
    try:
        number = kind(text)
        if not abs(number) < 1e9:
            raise ValueError
        return number
    except (TypeError, ValueError):
        found = 'is missing' if text is None else f'is {text!r}'
        raise UserError(f'{path}: {entry}{place} {found}, must be {getattr(kind, "__name__", "")}') from None


def check_sizes(images: Sequence[Path], sizes: Sequence[tuple[float, float]]) -> None:
    """Raises :class:`UserError` if images, of which some are opened, have other sizes than their annotations say."""
    for i in evenly(len(images), _SAMPLE):
        found = decoded_size(images[i])
        if found and np.isfinite(sizes[i]).all() and found != tuple(sizes[i]):
            raise UserError(wrong_size(images[i], found, sizes[i]))


def read_masks(infos: Sequence[Mapping[str, Any]], load: Any, classes: Sequence[str], ignore: int) -> Tally:
    """Compares masks with their images, and counts the masks of each class.

    ``infos`` are a data set's, ``load`` is its pipeline's step that reads ``gt_seg_map``.
    """
    looked_at, seen, ignored = set(evenly(len(infos), _SAMPLE)), Counter[str](), 0
    for i, info in enumerate(infos):
        path = Path(info['seg_map_path'])
        try:
            with Image.open(path) as mask:
                mode, size = mask.mode, (mask.height, mask.width)
                values = np.asarray(mask if mode not in ('1', 'L', 'P') else 0)
                extremes = [x for x in (values.min(), values.max()) if not 0 <= x <= 255 or x != int(x)]
        except Exception as error:  # whatever a decoder raises at damaged input
            raise UserError(f'the mask {path} cannot be read: {error}') from error
        image = decoded_size(Path(info['img_path']))
        if image and image != size:
            raise UserError(f'the mask {path} is {size[1]}x{size[0]}, its image {image[1]}x{image[0]}')
        if mode == 'F' or values.ndim > 2 or extremes:
            found = f'the value {extremes[0]}' if extremes else f'the mode {mode}'
            raise UserError(f'the mask {path} has {found}; must be one channel of class numbers, 0 to 255')
        if i in looked_at:
            labels = np.flatnonzero(np.bincount(load(dict(info))['gt_seg_map'].ravel(), minlength=256)).tolist()
            if wrong := [x for x in labels if x >= len(classes) and x != ignore]:
                allowed = f'0 to {len(classes) - 1}, and {ignore} for pixels to ignore'
                raise UserError(
                    f'{path} has the label{"s" if len(wrong) > 1 else ""} {listing(wrong, 8)}; with '
                    f'num_classes={len(classes)} allowed are {allowed}'
                )
            seen.update(classes[x] for x in labels if x != ignore)
            ignored += ignore in labels
    if len(seen) < 2:
        raise UserError(
            f'of the classes {listing(classes, 5)} the masks have {", ".join(seen) or "none"} only, and {ignored} of '
            f'{len(looked_at)} have pixels to ignore ({ignore}); write the numbers of the classes, 0, 1, ..., into them'
        )
    counts = ', '.join(f'{name} {count}' for name, count in seen.most_common())
    absent = [name for name in classes if name not in seen]
    text = f'{len(infos)} images with masks; of {len(looked_at)} masks looked at have pixels of {counts or "no class"}'
    text += f', {ignored} with pixels to ignore ({ignore})' * bool(ignored)
    text += f'; WARNING: none has {listing(absent, 5)}' * bool(absent)
    return Tally(len(infos), None, text)
