"""The formats that labelling tools write, recognized and read as samples.

globox reads single objects of Pascal VOC, YOLO, CVAT and labelme; where files lie, what belongs to what, outlines and
masks are dealt with here.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from globox import BoundingBox
from globox.errors import ParsingError

from ..errors import UserError, listing, one_line
from .files import IMAGES
from .folder import SPLIT_NAMES, Folder, mask_stem, read_lines, split_of
from .images import decoded_size, has_16_bits, is_whole
from .samples import Faults, Sample, Thing

#: Files with the names of classes, one a line, for formats that have numbers only.
_NAMES = ('classes.txt', 'obj.names', 'labels.txt', '_darknet.labels', 'predefined_classes.txt')
_LONELY, _DAMAGED = 'annotations without an image, left out', 'images that cannot be read, left out'


@dataclass
class Found:
    """What a folder holds: its format and the files that say so (and for COCO and labelme their content)."""

    folder: Folder
    format: str
    sources: list[tuple[Path, Any]]


def recognize(root: Path, wanted: str | None = None, task: str | None = None) -> Found:
    """Finds the format of the annotations below a folder, or in a COCO file or ``data.yaml``, by their content.

    ``wanted`` is the format to read where there are several; with the task ``'segment'`` masks come before boxes.

    Raises:
        UserError: There is nothing that can be learned from, or annotations in several formats.
    """
    only = Path(os.path.abspath(root)) if root.is_file() else None
    folder = Folder(_home(only) if only else root)
    sources: dict[str, list[tuple[Path, Any]]] = {}
    broken: list[UserError] = []
    for path in [only] if only else folder.others:
        try:
            for kind, content in _kind(path, folder):
                sources.setdefault(kind, []).append((path, content))
        except UserError as error:  # many folders hold files that are something else
            broken.append(error)
    suffixes = {path.suffix for files in sources.values() for path, _ in files}
    if fatal := [
        error for error in broken if not sources or Path(str(error).partition(' cannot')[0]).suffix in suffixes
    ]:
        raise fatal[0]
    if any(content for _, content in sources.get('yolo', [])):  # a data.yaml says what is used
        sources['yolo'] = [(path, content) for path, content in sources['yolo'] if content]
    masks: list[tuple[Path, Any]] = [(path, None) for path in folder.masks]
    if masks and (wanted == 'masks' or (wanted is None and (task == 'segment' or not sources))):
        sources = {'masks': masks}
    if not folder.images:
        raise UserError(f'{folder.root} has no images ({" ".join(IMAGES)})')
    if wanted:
        sources = {kind: files for kind, files in sources.items() if kind == wanted}
    if not sources:
        formats = wanted or ', '.join(_READERS)
        raise UserError(f'{only or root} has {len(folder.images)} images, but no annotations of the format {formats}')
    if len(sources) > 1:
        kinds = ', '.join(f'{kind} ({folder.short(files[0][0])})' for kind, files in sources.items())
        raise UserError(f'{root} has annotations in several formats: {kinds}; choose with --format {"|".join(sources)}')
    ((kind, files),) = sources.items()
    return Found(folder, kind, files)


def _home(file: Path) -> Path:
    """The folder of the data that an annotation file is for."""
    if file.suffix.lower() in ('.yaml', '.yml'):
        content = _parsed(file, yaml.safe_load)
        place = file.parent / str(content.get('path') or '') if isinstance(content, dict) else file.parent
        return place if place.is_dir() else file.parent
    return file.parent.parent if file.parent.name.lower() == 'annotations' else file.parent


def _kind(path: Path, folder: Folder) -> Iterator[tuple[str, Any]]:
    """The format of an annotation file, and its content where that is read anyway."""
    suffix = path.suffix.lower()
    if suffix == '.json':
        content = _parsed(path, json.loads)
        if isinstance(content, dict) and {'images', 'annotations', 'categories'} <= content.keys():
            yield 'coco', content
        elif isinstance(content, dict) and {'shapes', 'imagePath'} <= content.keys():
            yield 'labelme', content
    elif suffix == '.xml':
        root = _parsed(path, ElementTree.fromstring)
        if root.tag in ('annotation', 'annotations'):
            yield ('voc' if root.tag == 'annotation' else 'cvat'), root
    elif suffix in ('.yaml', '.yml'):
        content = _parsed(path, yaml.safe_load)
        if isinstance(content, dict) and 'names' in content and {'train', 'val'} & content.keys():
            yield 'yolo', content
    elif suffix == '.txt' and path.name not in _NAMES and folder.image(path.stem, path):
        numbers = (read_lines(path) or ['0 0 0 0 0'])[0].split()
        if len(numbers) >= 5 and all(_is_number(number) for number in numbers):
            yield 'yolo', None


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except Exception as error:  # whatever a parser raises at damaged or odd input
        raise UserError(f'{path} cannot be read as {path.suffix[1:].upper()}: {one_line(error)}') from error


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Names the file that content of another type or form than it should have comes from."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, ParsingError) as error:
        raise UserError(f'{where} cannot be understood: {type(error).__name__}: {one_line(error)}') from error


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r'[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?', text))


def read(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    """Reads all samples, and the names of the classes in the order of their numbers.

    ``classes`` are the names for formats that have numbers only. What cannot be used is counted in ``faults``.

    Raises:
        UserError: A file contradicts itself or something is missing; the message names it.
    """
    with _reading(str(found.sources[0][0] if len(found.sources) == 1 else found.folder.root)):
        samples, names = _READERS[found.format](found, classes, faults)
    used = {sample.image for sample in samples}
    if len(used) < len(samples):
        counts = Counter(sample.image for sample in samples)
        twice = listing(sorted(found.folder.short(image) for image, count in counts.items() if count > 1), 4)
        raise UserError(f'annotated more than once: {twice}; remove one of the annotations, or name one file as DATA')
    for label in {thing.label for sample in samples for thing in sample.things} | set(names):
        if alike := [name for name in names if name != label and name.lower() == label.lower()]:
            raise UserError(f'the classes {label!r} and {alike[0]!r} differ in case only: write them alike')
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f'the classes {listing(names, 20)}: each must have a name of its own')
    damaged = set(faults.kinds.get(_DAMAGED, ()))
    for mask in found.folder.lonely_masks if found.format == 'masks' else ():
        faults.add(_LONELY, found.folder.short(mask))
    path, content = found.sources[0]
    by_yaml = found.format == 'yolo' and content is not None
    unused = f'images {f"that {path.name} does not name" if by_yaml else "without annotations"}, not used'
    for image in found.folder.images:
        if image not in used and found.folder.short(image) not in damaged:
            faults.add(unused, found.folder.short(image))
    return samples, names


def _sample(folder: Folder, name: str, near: Path, faults: Faults, stated: Sequence[Any] = ()) -> Sample | None:
    """The sample of an image that an annotation names, as yet without objects; ``stated`` is its (width, height)."""
    image = folder.image(name, near)
    size = decoded_size(image) if image and is_whole(image) else None
    if image is None:
        faults.add(_LONELY, f'{name} in {folder.short(near)}' if near.stem != Path(name).stem else folder.short(near))
        return None
    if size is None:
        faults.add(_DAMAGED, folder.short(image))
        return None
    if has_16_bits(image):
        faults.add('images of 16 bits, read as 8: convert those that use only a part of the 16', folder.short(image))
    found = (size[1], size[0])
    with _reading(folder.short(near)):
        wrong = bool(stated) and all(stated) and tuple(int(float(side)) for side in stated) != found
    if wrong:
        raise UserError(
            f'{folder.short(near)} is for an image of {stated[0]}x{stated[1]}, but {folder.short(image)} is '
            f'{found[0]}x{found[1]} (turned as its EXIF data say, if it has them)'
        )
    return Sample(image, found, split=folder.split_of(image) or folder.split_of(near))


def _thing(where: str, reader: Callable[[Any], Any], source: Any, outline: Any = None, ignore: bool = False) -> Thing:
    with _reading(where):  # globox raises its own errors, and asserts
        box = reader(source)
        return Thing(' '.join(box.label.split()), box.ltrb, outline, ignore)


def _read_coco(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples, names = [], []
    for path, content in found.sources:
        where = found.folder.short(path)
        with _reading(where):
            categories = {entry['id']: ' '.join(str(entry['name']).split()) for entry in content['categories']}
            images = {entry['id']: entry for entry in content['images']}
            for part, known in (('categories', categories), ('images', images)):
                if len(known) < len(content[part]):
                    raise UserError(f'{where}: {part} has an id more than once')
            things: dict[Any, list[Thing]] = {number: [] for number in images}
            for i, entry in enumerate(content['annotations']):
                for key, ids in (('image_id', images), ('category_id', categories)):
                    if entry[key] not in ids:
                        raise UserError(f'{where}: annotations[{i}].{key} is {entry[key]!r}, an id that nothing has')
                left, top, width, height = map(float, entry['bbox'])
                label, crowd = categories[entry['category_id']], bool(entry.get('iscrowd') or entry.get('ignore'))
                box = (left, top, left + width, top + height)
                things[entry['image_id']].append(Thing(label, box, entry.get('segmentation'), crowd))
        used = {entry['category_id'] for entry in content['annotations']}
        taken = {categories[number].lower() for number in used}  # Roboflow's category 0 may have another's name
        kept = [name for number, name in categories.items() if number in used or name.lower() not in taken]
        names += [name for name in kept if name not in names]
        for number, entry in images.items():
            size = (entry.get('width'), entry.get('height'))
            sample = _sample(found.folder, str(entry.get('file_name')), path, faults, size)
            if sample:
                sample.split = split_of(path.relative_to(found.folder.root)) or sample.split
                sample.things = things[number]
                samples.append(sample)
    return samples, names


def _read_voc(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples, listed = [], _ImageSets(found.folder, 'Main')
    for path, root in found.sources:
        stated = [root.findtext(f'size/{side}') for side in ('width', 'height')]
        stated = [int(float(side)) if side and _is_number(side) else 0 for side in stated]
        name = root.findtext('filename') or ''
        if Path(name).stem != path.stem:  # files are renamed, what they say is not
            name = path.stem
        sample = _sample(found.folder, name, path, faults, stated)
        if sample is None:
            continue
        sample.split = listed.split(path, sample.split)
        for number, node in enumerate(root.findall('object')):
            where = f'{found.folder.short(path)}, object {number + 1}'
            thing = _thing(where, BoundingBox.from_xml, node, ignore=node.findtext('difficult') == '1')
            left, top, right, bottom = (side - 1 for side in thing.box)  # as MMDetection's XMLDataset
            sample.things.append(Thing(thing.label, (left, top, right, bottom), ignore=thing.ignore))
        samples.append(sample)
    listed.count_unseen(faults)
    return samples, sorted({thing.label for sample in samples for thing in sample.things})


class _ImageSets:
    """The splits of names in VOC's lists; trainval counts where there is no list for train."""

    def __init__(self, folder: Folder, kind: str) -> None:
        self.splits: dict[tuple[Path, str], str] = {}
        stems = {path.stem for path in (*folder.others, *folder.images)}
        own = [path for path in folder.others if path.parent.name == kind and path.suffix == '.txt']
        lists = {path: {'trainval': 'both', **SPLIT_NAMES}.get(path.stem.lower()) for path in own}
        for split in ('both', 'test', 'val', 'train'):
            for path in [path for path in own if lists[path] == split]:
                if split != 'both' or not any(lists[x] == 'train' and x.parent == path.parent for x in own):
                    for line in read_lines(path):  # the name of an image, or that and whether it has a class
                        name = line if line in stems else re.sub(r'\s+-?[01]$', '', line)
                        if name not in stems and Path(name).suffix.lower() in IMAGES:
                            name = Path(name.replace('\\', '/')).stem
                        self.splits[path.parents[2], name] = split.replace('both', 'train')
        self.kind, self.unseen = kind, set(self.splits)

    def split(self, annotation: Path, other: str) -> str:
        """The split of an annotation file or mask; ``other`` where there are no lists beside it."""
        key = (annotation.parents[1], annotation.stem)
        if key not in self.splits:
            key = (key[0], mask_stem(annotation))
        self.unseen.discard(key)
        return self.splits.get(key, '' if any(root == key[0] for root, _ in self.splits) else other)

    def count_unseen(self, faults: Faults) -> None:
        """Counts names without an annotation as faults; raises if they are all."""
        names = sorted(name for _, name in self.unseen)
        if names and len(names) == len(self.splits):
            raise UserError(
                f'none of the {len(names)} names in the lists of ImageSets/{self.kind} ({listing(names, 3)}) is that '
                'of an annotation: correct the lists, or remove them for a split by chance'
            )
        for name in names:
            faults.add('names in ImageSets without an annotation', name)


def _read_cvat(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples = []
    for path, root in found.sources:
        if root.find('track') is not None:
            raise UserError(f"{path} is CVAT's export of a video; export 'CVAT for images'")
        for node in root.iter('image'):
            name = node.get('name') or ''
            stated = [node.get(side) or 0 for side in ('width', 'height')]
            sample = _sample(found.folder, name, path, faults, stated)
            if sample is None:
                continue
            sample.split = split_of(node.get('subset') or '') or sample.split
            for child in node:
                where = f'{found.folder.short(path)}, image {name}'
                if float(child.get('rotation') or 0):
                    faults.add('rotated boxes, left out', sample.image.name)
                elif child.tag == 'box':
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
    with _reading(where):
        numbers = [[float(x), float(y)] for x, y in points]
    return _thing(where, BoundingBox.from_labelme, dict(label=label, points=numbers), [sum(numbers, [])])


def _read_labelme(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    samples = []
    for path, content in found.sources:
        name = Path(str(content['imagePath']).replace('\\', '/')).name
        stated = (content.get('imageWidth'), content.get('imageHeight'))
        sample = _sample(found.folder, name if Path(name).stem == path.stem else path.stem, path, faults, stated)
        if sample is None:
            continue
        for shape in content['shapes'] or ():
            with _reading(found.folder.short(path)):
                kind = shape.get('shape_type', 'polygon')
            if shape.get('group_id') is not None:
                faults.add('shapes that belong to a group (group_id), each taken as an object', sample.image.name)
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
    names = _yaml_names(path, content['names']) if content else _names_beside(folder, bool(classes))
    if classes and not set(classes) & set(names or ()):  # names for the numbers, not a choice of those in the file
        names = list(classes)
    labels = _label_files(folder, [] if content else [path for path, _ in found.sources], faults)
    images = _yaml_images(folder, path, content) if content else _listed_images(folder)
    unknown: list[str] = []
    homes, poses = {image.parent for image in labels}, bool(content and content.get('kpt_shape'))
    for image, split in images.items():
        near = labels.get(image)
        sample = _sample(folder, folder.short(image), near or folder.root / 'none', faults)
        if sample is None:
            continue
        sample.split = split or sample.split
        if near is None and not content and image.parent not in homes:
            continue  # it is counted as not annotated
        if near is None:
            faults.add('images without a label file, taken as background', folder.short(image))
        for number, line in enumerate(read_lines(near) if near else [], start=1):
            where = f'{folder.short(near or image)}, line {number}'
            thing = _yolo_thing(where, ' '.join(line.split()[:5]) if poses else line, sample.size)
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
            'classes.txt with a name a line, names to a data.yaml, or --classes NAME ...'
        )
    if unknown:
        allowed = f'a class number that is none of 0 to {len(names) - 1} ({listing(names, 5)})'
        raise UserError(f'{len(unknown)} objects have {allowed}: {listing(unknown, 3)}')
    return samples, list(names)


def _label_files(folder: Folder, sources: Sequence[Path], faults: Faults) -> dict[Path, Path]:
    """The label file of each image."""
    labels: dict[Path, Path] = {}
    lonely = []
    for path in folder.others:
        if path.suffix.lower() != '.txt' or path.name in _NAMES:
            continue
        if image := folder.image(path.stem, path):
            if image in labels:
                raise UserError(f'{folder.short(labels[image])} and {folder.short(path)} are both for {image.name}')
            labels[image] = path
        elif path.stem.lower() not in SPLIT_NAMES:
            lonely.append(path)
    homes = {path.parent for path in (*sources, *labels.values())}
    for path in lonely:
        if path.parent in homes:
            faults.add(_LONELY, folder.short(path))
    return labels


def _yolo_thing(where: str, line: str, size: tuple[int, int]) -> Thing:
    """An object from a line: a class number and a box (4 numbers, maybe a score) or a polygon, relative to the size."""
    values = line.split()
    if re.fullmatch(r'[0-9]+\.0*', values[0]):  # some tools write 1.0
        values[0] = values[0].partition('.')[0]
    if len(values) > 6 and any(_is_number(value) and float(value) > 1.5 for value in values[1:]):
        raise UserError(f'{where} has numbers above 1, as key points have: a data.yaml with kpt_shape has to say so')
    if len(values) < 7:  # a score or a number may follow the box
        return _thing(where, partial(BoundingBox.from_yolo_v5, image_size=size), ' '.join(values[:5]))
    outline = [float(value) * size[i % 2] for i, value in enumerate(values[1:]) if _is_number(value)]
    return _thing(where, partial(BoundingBox.from_yolo_seg, image_size=size), ' '.join(values), [outline])


def _names_beside(folder: Folder, given: bool) -> list[str] | None:
    for name in _NAMES:
        found = [path for path in folder.others if path.name == name]
        if len({tuple(read_lines(path, blank=True)) for path in found}) > 1:
            if given:
                return None
            files = listing([folder.short(path) for path in found])
            raise UserError(f'{files} have other names of classes: they must be the same, or give --classes NAME ...')
        if found:
            return read_lines(found[0], blank=True)
    for path in folder.others:  # a data.yaml without the splits
        content = _parsed(path, yaml.safe_load) if path.suffix.lower() in ('.yaml', '.yml') else None
        if isinstance(content, dict) and 'names' in content:
            return _yaml_names(path, content['names'])
    return None


def _yaml_names(path: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        numbered = {str(number): name for number, name in names.items()}
        names = [numbered.get(str(number)) for number in range(len(numbered))]
    if not isinstance(names, list) or not names or None in names:
        raise UserError(f'{path}: names must be a list of names, or have the numbers 0, 1, 2 ...')
    if odd := [name for name in names if isinstance(name, bool)]:
        raise UserError(f'{path}: YAML reads a name as {str(odd[0]).lower()}: put quotes around it')
    return [str(name) for name in names]


def _listed_images(folder: Folder) -> dict[Path, str]:
    """All images, with the splits of Darknet's lists, such as ``train.txt`` and ``valid.txt``, if there are some."""
    images = dict.fromkeys(folder.images, '')
    for path in folder.others:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split and path.suffix.lower() == '.txt' and any(folder.image(line, path) for line in read_lines(path)):
            images.update(dict.fromkeys(_named_images(folder, path), split))
    return images


def _named_images(folder: Folder, path: Path) -> list[Path]:
    """The images that a list of paths names, which may be another machine's."""
    lines = read_lines(path)
    found = [image for line in lines if (image := folder.image(line, path))]
    if lost := len(lines) - len(found):
        raise UserError(f'{path}: {lost} of {len(lines)} lines name no image that is there')
    return found


def _yaml_images(folder: Folder, path: Path, content: dict) -> dict[Path, str]:
    """The images that a data.yaml names, with their splits; paths are looked up as ultralytics does."""
    images: dict[Path, str] = {}
    # A file may be a link to another image of the data: its labels are beside the link.
    known = {image.resolve(): image for image in folder.images} | {image: image for image in folder.images}
    roots = [path.parent / str(content.get('path') or ''), path.parent]
    for split in ('test', 'val', 'train'):  # a folder of training images may hold the others
        parts = content.get(split) or content.get({'val': 'valid'}.get(split)) or []
        for part in [parts] if isinstance(parts, str) else parts:
            name = str(part).replace('\\', '/')
            tries = [root / spelling for root in roots for spelling in (name, name.removeprefix('../'))]
            place = next((place for place in tries if place.exists()), None)
            if place is None:
                found = []
            elif place.is_file():
                found = _named_images(folder, place)
            else:
                files = (Path(os.path.abspath(file)) for file in sorted(place.rglob('*')))
                found = [own for file in files if (own := known.get(file) or known.get(file.resolve()))]
            if not found and split != 'test':  # Roboflow names it whether it exists or not
                raise UserError(f'{path}: {split} is {part}, where no images are, beside it or below its path')
            images.update({image: split for image in found if image not in images})
    return images


def _read_masks(found: Found, classes: Sequence[str] | None, faults: Faults) -> tuple[list[Sample], list[str]]:
    folder, samples, listed = found.folder, [], _ImageSets(found.folder, 'Segmentation')
    for path, _ in found.sources:
        height, width = decoded_size(path) or (0, 0)
        sample = _sample(folder, mask_stem(path), path, faults, (width, height))
        if sample:
            sample.mask = path
            sample.split = listed.split(path, sample.split)
            samples.append(sample)
    listed.count_unseen(faults)
    return samples, list(classes or [])


_READERS: dict[str, Callable[[Found, Sequence[str] | None, Faults], tuple[list[Sample], list[str]]]] = {
    'coco': _read_coco,
    'voc': _read_voc,
    'yolo': _read_yolo,
    'cvat': _read_cvat,
    'labelme': _read_labelme,
    'masks': _read_masks,
}
