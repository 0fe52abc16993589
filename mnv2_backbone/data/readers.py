"""The formats that labelling tools write, recognized and read as samples.

globox reads single objects of Pascal VOC, YOLO, CVAT and labelme; where files lie, what belongs to what, outlines and
masks are dealt with here.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from globox import BoundingBox

from ..errors import UserError, listing
from .files import IMAGES
from .folder import Folder, mask_stem, read_lines, split_of
from .images import decoded_size
from .samples import Faults, Sample, Thing

#: Files with the names of classes, one a line, for formats that have numbers only.
_NAMES = ('classes.txt', 'obj.names', 'labels.txt', '_darknet.labels', 'predefined_classes.txt')
_LONELY, _DAMAGED = 'annotations without an image, left out', 'images that cannot be read, left out'
_TITLES = {'coco': 'COCO', 'voc': 'Pascal VOC', 'yolo': 'YOLO', 'cvat': 'CVAT', 'labelme': 'labelme', 'masks': 'masks'}


@dataclass
class Found:
    """What a folder holds: its format and the files that say so (and for COCO and labelme their content)."""

    folder: Folder
    format: str
    sources: list[tuple[Path, Any]]


def recognize(root: Path, wanted: str | None = None, task: str | None = None) -> Found:
    """Finds the format of the annotations below a folder, or in a file, by their content.

    Args:
        root: The folder, COCO file or ``data.yaml``.
        wanted: The format to read where there are several.
        task: ``'segment'`` prefers masks to boxes.

    Raises:
        UserError: There is nothing that can be learned from, or annotations in several formats.
    """
    only = root if root.is_file() else None
    folder = Folder(_home(root) if only else root)
    sources: dict[str, list[tuple[Path, Any]]] = {}
    for path in [only] if only else folder.others:
        for kind, content in _kind(path, folder):
            sources.setdefault(kind, []).append((path, content))
    if any(content for _, content in sources.get('yolo', [])):  # a data.yaml says what is used
        sources['yolo'] = [(path, content) for path, content in sources['yolo'] if content]
    masks: list[tuple[Path, Any]] = [(path, None) for path in folder.masks]
    if masks and (task == 'segment' or not sources) and wanted in (None, 'masks'):
        sources = {'masks': masks}
    if not folder.images:
        raise UserError(f'{folder.root} has no images ({" ".join(IMAGES)})')
    if wanted:
        sources = {kind: files for kind, files in sources.items() if kind == wanted}
    if not sources:
        sought = _TITLES[wanted] if wanted else ', '.join(_TITLES.values())
        count = len(folder.images)
        raise UserError(f'{only or root} has {count} images, but no annotations in a format sought: {sought}')
    if len(sources) > 1:
        kinds = ', '.join(f'{_TITLES[kind]} ({folder.short(files[0][0])})' for kind, files in sources.items())
        raise UserError(f'{root} has annotations in several formats: {kinds}; choose with --format {"|".join(sources)}')
    ((kind, files),) = sources.items()
    return Found(folder, kind, files)


def _home(file: Path) -> Path:
    """The folder of the data that an annotation file is for."""
    if file.suffix.lower() in ('.yaml', '.yml'):
        content = _parsed(file, yaml.safe_load, yaml.YAMLError)
        place = file.parent / str(content.get('path') or '') if isinstance(content, dict) else file.parent
        return place if place.is_dir() else file.parent
    return file.parent.parent if file.parent.name.lower() == 'annotations' else file.parent


def _kind(path: Path, folder: Folder) -> Iterator[tuple[str, Any]]:
    """The format of an annotation file, and its content where that is read anyway."""
    suffix = path.suffix.lower()
    if suffix == '.json':
        content = _parsed(path, json.loads, ValueError)
        if isinstance(content, dict) and {'images', 'annotations', 'categories'} <= content.keys():
            yield 'coco', content
        elif isinstance(content, dict) and {'shapes', 'imagePath'} <= content.keys():
            yield 'labelme', content
    elif suffix == '.xml':
        root = _parsed(path, ElementTree.fromstring, ElementTree.ParseError)
        if root.tag in ('annotation', 'annotations'):
            yield ('voc' if root.tag == 'annotation' else 'cvat'), root
    elif suffix in ('.yaml', '.yml'):
        content = _parsed(path, yaml.safe_load, yaml.YAMLError)
        if isinstance(content, dict) and 'names' in content and {'train', 'val', 'path'} & content.keys():
            yield 'yolo', content
    elif suffix == '.txt' and path.name not in _NAMES and folder.image(path.stem, path):
        numbers = (read_lines(path) or ['0 0 0 0 0'])[0].split()
        if len(numbers) >= 5 and all(_is_number(number) for number in numbers):
            yield 'yolo', None


def _parsed(path: Path, parse: Callable[[bytes], Any], error_type: type[Exception]) -> Any:
    try:
        return parse(path.read_bytes())
    except (error_type, OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read as {path.suffix[1:].upper()}: {error}') from error


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r'[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?', text))


def read(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    """Reads all samples, and the names of the classes in the order of their numbers.

    ``classes`` are the names for formats that have numbers only. What cannot be used is counted in ``faults``.

    Raises:
        UserError: A file contradicts itself or something is missing; the message names it.
    """
    samples, names = _READERS[found.format](found, classes, faults)
    used = {sample.image for sample in samples}
    if len(used) < len(samples):
        images = [sample.image for sample in samples]
        twice = listing(sorted({found.folder.short(image) for image in images if images.count(image) > 1}), 4)
        raise UserError(f'annotated more than once: {twice}; remove one of the annotations')
    damaged = set(faults.kinds.get(_DAMAGED, ()))
    for image in found.folder.images:
        if image not in used and found.folder.short(image) not in damaged:
            faults.add('images without annotations, not used', found.folder.short(image))
    return samples, names


def _sample(folder: Folder, name: str, near: Path, faults: Faults, stated: Sequence[Any] = ()) -> Sample | None:
    """The sample of an image that an annotation names, as yet without objects; ``stated`` is its (width, height)."""
    image = folder.image(name, near)
    size = decoded_size(image) if image else None
    if image is None:
        faults.add(_LONELY, folder.short(near))
        return None
    if size is None:
        faults.add(_DAMAGED, folder.short(image))
        return None
    found = (size[1], size[0])
    if stated and all(stated) and tuple(int(side) for side in stated) != found:
        raise UserError(
            f'{folder.short(near)} is for an image of {stated[0]}x{stated[1]}, but {folder.short(image)} is '
            f'{found[0]}x{found[1]} (turned as its EXIF data say, if it has them)'
        )
    return Sample(image, found, split=folder.split_of(image) or folder.split_of(near))


def _thing(where: str, reader: Callable[[Any], Any], source: Any, outline: Any = None, ignore: bool = False) -> Thing:
    try:
        box = reader(source)
    except Exception as error:  # globox raises its own errors, and asserts
        raise UserError(f'{where}: {error or "no box"}') from error
    return Thing(box.label, box.ltrb, outline, ignore)


def _read_coco(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples, names = [], []
    for path, content in found.sources:
        where = found.folder.short(path)
        try:
            categories = {entry['id']: str(entry['name']) for entry in content['categories']}
            images = {entry['id']: entry for entry in content['images']}
            things: dict[Any, list[Thing]] = {number: [] for number in images}
            for i, entry in enumerate(content['annotations']):
                for key, known in (('image_id', things), ('category_id', categories)):
                    if entry[key] not in known:
                        raise UserError(f'{where}: annotations[{i}].{key} is {entry[key]}, an id that nothing has')
                left, top, width, height = map(float, entry['bbox'])
                label, crowd = categories[entry['category_id']], bool(entry.get('iscrowd'))
                box = (left, top, left + width, top + height)
                things[entry['image_id']].append(Thing(label, box, entry.get('segmentation'), crowd))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f'{where} is not as COCO files are: {type(error).__name__} {error}') from error
        names += [name for name in categories.values() if name not in names]
        for number, entry in images.items():
            size = (entry.get('width'), entry.get('height'))
            sample = _sample(found.folder, str(entry.get('file_name')), path, faults, size)
            if sample:
                sample.split = split_of(path.relative_to(found.folder.root)) or sample.split
                sample.things = things[number]
                samples.append(sample)
    return samples, names


def _read_voc(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples, listed = [], _image_sets(found.folder, 'Main')
    for path, root in found.sources:
        stated = [root.findtext(f'size/{side}') for side in ('width', 'height')]
        stated = [int(float(side)) if side and _is_number(side) else 0 for side in stated]
        name = root.findtext('filename') or ''
        if Path(name).stem != path.stem:  # files are renamed, what they say is not
            name = path.stem
        sample = _sample(found.folder, name, path, faults, stated)
        if sample is None:
            continue
        sample.split = listed.get(path.stem, '') if listed else sample.split
        for number, node in enumerate(root.findall('object')):
            where = f'{found.folder.short(path)}, object {number + 1}'
            thing = _thing(where, BoundingBox.from_xml, node, ignore=node.findtext('difficult') == '1')
            left, top, right, bottom = (side - 1 for side in thing.box)  # as MMDetection's XMLDataset
            sample.things.append(Thing(thing.label, (left, top, right, bottom), ignore=thing.ignore))
        samples.append(sample)
    return samples, sorted({thing.label for sample in samples for thing in sample.things})


def _image_sets(folder: Folder, kind: str) -> dict[str, str]:
    """The split of each name in VOC's lists; trainval counts where there is no list for train."""
    lists = {path.stem: path for path in folder.others if path.parent.name == kind and path.suffix == '.txt'}
    result = {}
    for split, stem in (('train', 'trainval'), ('test', 'test'), ('val', 'val'), ('train', 'train')):
        if stem in lists and not (stem == 'trainval' and 'train' in lists):
            result.update({Path(line.split()[0]).stem: split for line in read_lines(lists[stem])})
    return result


def _read_cvat(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples = []
    for path, root in found.sources:
        for node in root.iter('image'):
            name = node.get('name') or ''
            stated = [int(node.get(side) or 0) for side in ('width', 'height')]
            sample = _sample(found.folder, name, path, faults, stated)
            if sample is None:
                continue
            sample.split = split_of(node.get('subset') or '') or sample.split
            for child in node:
                where = f'{found.folder.short(path)}, image {name}'
                if child.tag == 'box':
                    sample.things.append(_thing(where, BoundingBox.from_cvat, child))
                elif child.tag == 'polygon':
                    points = [pair.split(',') for pair in child.get('points', '').split(';')]
                    sample.things.append(_outlined(where, child.get('label'), points))
                else:
                    faults.add(f'shapes of the kind {child.tag}, left out', sample.image.name)
            samples.append(sample)
    return samples, sorted({thing.label for sample in samples for thing in sample.things})


def _outlined(where: str, label: Any, points: Sequence[Any]) -> Thing:
    """An object from a polygon."""
    try:
        numbers = [[float(x), float(y)] for x, y in points]
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: the polygon {points!r} cannot be read: {error}') from error
    return _thing(where, BoundingBox.from_labelme, dict(label=label, points=numbers), [sum(numbers, [])])


def _read_labelme(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples = []
    for path, content in found.sources:
        name = Path(str(content['imagePath']).replace('\\', '/')).name
        stated = (content.get('imageWidth'), content.get('imageHeight'))
        sample = _sample(found.folder, name if Path(name).stem == path.stem else path.stem, path, faults, stated)
        if sample is None:
            continue
        for shape in content['shapes']:
            kind = shape.get('shape_type', 'polygon')
            if kind == 'rectangle':
                thing = _thing(found.folder.short(path), BoundingBox.from_labelme, shape)
                sample.things.append(thing)
            elif kind == 'polygon':
                sample.things.append(_outlined(found.folder.short(path), shape.get('label'), shape.get('points', ())))
            else:
                faults.add(f'shapes of the kind {kind}, left out', sample.image.name)
        samples.append(sample)
    return samples, sorted({thing.label for sample in samples for thing in sample.things})


def _read_yolo(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    folder, samples = found.folder, []
    path, content = found.sources[0]
    if len(found.sources) > 1 and content:
        raise UserError(f'{folder.root} has several: {listing([folder.short(x) for x, _ in found.sources])}; name one')
    beside = [read_lines(file) for file in folder.others if file.name in _NAMES]
    names = classes or (_yaml_names(path, content['names']) if content else next(iter(beside), None))
    labels = _label_files(folder, [] if content else [path for path, _ in found.sources], faults)
    images = _yaml_images(folder, path, content) if content else {image: '' for image in folder.images}
    unknown: list[str] = []
    for image, split in images.items():
        near = labels.get(image)
        sample = _sample(folder, folder.short(image), near or folder.root / 'none', faults)
        if sample is None:
            continue
        sample.split = split or sample.split
        if near is None:
            faults.add('images without a label file, taken as background', folder.short(image))
        for number, line in enumerate(read_lines(near) if near else [], start=1):
            where = f'{folder.short(near or image)}, line {number}'
            thing = _yolo_thing(where, line, sample.size)
            if names is None or thing.label in map(str, range(len(names))):
                label = thing.label if names is None else names[int(thing.label)]
                sample.things.append(replace(thing, label=label))
            else:
                unknown.append(f'{where} has {thing.label}')
        samples.append(sample)
    if names is None:
        numbers = sorted({thing.label for sample in samples for thing in sample.things})
        raise UserError(
            f'{folder.root}: the labels have the class numbers {listing(numbers)}, and no file says their names: add '
            'classes.txt with a name a line, or --classes NAME ...'
        )
    if unknown:
        raise UserError(
            f'{len(unknown)} objects have a class number that is none of 0 to {len(names) - 1} ({listing(names, 5)}): '
            f'{listing(unknown, 3)}'
        )
    return samples, list(names)


def _label_files(folder: Folder, sources: Sequence[Path], faults: Faults) -> dict[Path, Path]:
    """The label file of each image."""
    labels: dict[Path, Path] = {}
    homes = {path.parent for path in sources}
    for path in folder.others:
        if path.suffix != '.txt' or path.name in _NAMES:
            continue
        if image := folder.image(path.stem, path):
            if image in labels:
                raise UserError(f'{folder.short(labels[image])} and {folder.short(path)} are both for {image.name}')
            labels[image] = path
        elif path.parent in homes and path.stem not in ('train', 'val', 'test'):
            faults.add(_LONELY, folder.short(path))
    return labels


def _yolo_thing(where: str, line: str, size: tuple[int, int]) -> Thing:
    """An object from a line: a class number and a box (4 numbers, maybe a score) or a polygon, relative to the size."""
    values = line.split()
    if len(values) < 7:
        return _thing(where, partial(BoundingBox.from_yolo_v5, image_size=size), line)
    outline = [float(value) * size[i % 2] for i, value in enumerate(values[1:]) if _is_number(value)]
    return _thing(where, partial(BoundingBox.from_yolo_seg, image_size=size), line, [outline])


def _yaml_names(path: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UserError(f'{path}: names has the numbers {listing(list(names))}: must be 0, 1, 2 ...')
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f'{path}: names is {names!r}, must be a list of names')
    return [str(name) for name in names]


def _yaml_images(folder: Folder, path: Path, content: dict) -> dict[Path, str]:
    """The images that a data.yaml names, with their splits; paths are looked up as ultralytics does."""
    images: dict[Path, str] = {}
    known = {image.resolve(): image for image in folder.images}
    roots = [path.parent / str(content.get('path') or ''), path.parent]
    for split in ('train', 'val', 'test'):
        parts = content.get(split) or []
        for part in [parts] if isinstance(parts, str) else parts:
            tries = [root / name for root in roots for name in (part, part.removeprefix('../'))]
            place = next((path for path in tries if path.exists()), None)
            if place is None and split == 'test':
                continue  # Roboflow names it whether it exists or not
            if place is None:
                raise UserError(f'{path}: {split} is {part}, which does not exist beside it or below its path')
            files = [place.parent / line for line in read_lines(place)] if place.is_file() else sorted(place.rglob('*'))
            found = [known[file.resolve()] for file in files if file.resolve() in known]
            if not found:
                raise UserError(f'{path}: {split} is {part}, where no images are')
            images.update({image: split for image in found if image not in images})
    return images


def _read_masks(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    folder, samples, listed = found.folder, [], _image_sets(found.folder, 'Segmentation')
    for path, _ in found.sources:
        if 'SegmentationObject' in path.parts:
            continue  # VOC's numbers of objects
        height, width = decoded_size(path) or (0, 0)
        sample = _sample(folder, mask_stem(path), path, faults, (width, height))
        if sample:
            sample.mask = path
            sample.split = listed.get(mask_stem(path), '') if listed else sample.split
            samples.append(sample)
    return samples, list(classes or [])


_READERS: dict[str, Callable[[Found, Sequence[str] | None, Faults], tuple[list[Sample], list[str]]]] = {
    'coco': _read_coco,
    'voc': _read_voc,
    'yolo': _read_yolo,
    'cvat': _read_cvat,
    'labelme': _read_labelme,
    'masks': _read_masks,
}
