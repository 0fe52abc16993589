"""The user's data: read and described."""

import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnv2_backbone.data.readers import read, recognize
from mnv2_backbone.data.samples import Faults, Sample, clean, divide
from mnv2_backbone.errors import UserError, listing

from .labelmaps import MaskReader


@dataclass
class Data:
    """A data set: the folder of its images, its format, samples, and classes.

    ``division`` says how it was split, ``masks`` reads mask files if that is what the annotations are.
    """

    root: Path
    format: str
    samples: list[Sample]
    classes: list[str]
    faults: Faults
    division: str
    masks: MaskReader | None = None

    def of(self, split: str) -> list[Sample]:
        """The samples of a split."""
        return [sample for sample in self.samples if sample.split == split]

    @property
    def final(self) -> str:
        """The split for the scores at the end: the test images, if there are some with something to find."""
        labels = {thing.label for sample in self.of('test') for thing in sample.things if not thing.ignore}
        return 'test' if labels & set(self.classes) or any(sample.mask for sample in self.of('test')) else 'val'


def unpacked(data: Path, work_dir: Path) -> Path:
    """The folder or file to read; a zip file is unpacked into the work folder."""
    if data.is_dir() or data.suffix.lower() != '.zip':
        return data
    try:
        with zipfile.ZipFile(data) as archive:
            archive.extractall(work_dir / 'data')
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        shutil.rmtree(work_dir / 'data', ignore_errors=True)
        raise UserError(f'{data} cannot be unpacked: {error}') from error
    return work_dir / 'data'


def read_data(
    path: Path, kind: str | None, task: str | None, classes: Sequence[str] | None, share: float, seed: int
) -> Data:
    """Reads, cleans and splits a data set; errors as for :func:`mnv2_backbone.data.readers.read`."""
    faults = Faults()
    found = recognize(path, kind, task)
    samples, names = read(found, classes, faults)
    clean(samples, faults)
    if len(samples) < 2:
        raise UserError(
            '; '.join([f'{path}: {len(samples)} annotated images, a few dozen are needed', *faults.lines()])
        )
    masks = None
    if found.format == 'masks':
        masks = MaskReader(found.folder, [sample.mask for sample in samples if sample.mask], classes)
        for sample in samples:
            sample.numbers = masks.numbers[sample.mask] if sample.mask else set()
    division = divide(samples, share, seed, faults)
    data = Data(found.folder.root, found.format, samples, names, faults, division, masks)
    if masks:
        data.classes = masks.classes
        _check_masks(data, path)
    else:
        data.classes = _learnable(data, path, classes if classes and set(classes) & set(names) else names)
    return data


def _check_masks(data: Data, path: Path) -> None:
    """Counts the classes that no mask for training has as faults; raises if there is only one class."""
    for split in ('train', 'val'):
        found = set[int]().union(*(sample.numbers for sample in data.of(split)))
        if len(found) < 2:
            names = listing([data.classes[number] for number in found]) or 'no class'
            count = len(data.of(split))
            raise UserError(f'{path}: the {count} masks for {split} have {names} only: no two classes to tell apart')
        for number, name in enumerate(data.classes if split == 'train' else ()):
            if number not in found:
                data.faults.add('classes without a pixel in the masks for training', name)


def _learnable(data: Data, path: Path, wanted: Sequence[str]) -> list[str]:
    """The classes that there is something to learn from; the others are counted as faults."""
    if missing := [name for name in wanted if name not in data.classes]:
        raise UserError(f'--classes {missing[0]}: the annotations have {listing(data.classes, 20)}')
    counts, seen = (
        Counter(thing.label for sample in data.of(split) for thing in sample.things if not thing.ignore)
        for split in ('train', 'val')
    )
    learnable = [name for name in wanted if counts[name]]
    for name in sorted(set(wanted) - set(learnable)):
        data.faults.add('classes without an object to learn from, left out', name)
    for split, found in (('train', counts), ('val', seen)):
        if not any(found[name] for name in learnable):
            text = f'{path}: the {len(data.of(split))} images for {split} have no objects of a class to learn'
            raise UserError('; '.join([text, *data.faults.lines()]))
    return learnable


def describe(data: Data, console: Console) -> None:
    """Prints what was found."""
    console.print(f'{data.root}: {len(data.samples)} annotated images, {data.format}; {data.division}', markup=False)
    splits = [split for split in ('train', 'val', 'test') if data.of(split)]
    table = Table('class', *splits, *(['size in the image'] if data.format != 'masks' else []))
    table.add_row('images', *(str(len(data.of(split))) for split in splits))
    for name in data.classes if data.format != 'masks' else ():
        counts = [
            sum(thing.label == name and not thing.ignore for x in data.of(split) for thing in x.things)
            for split in splits
        ]
        sides = relative_sides(data.samples, name)
        low, middle, high = (f'{100 * side:.0f}' for side in np.quantile(sides, (0.1, 0.5, 0.9)))
        table.add_row(escape(name), *map(str, counts), f'{middle} % ({low} to {high})')
    if data.of('test') and data.final != 'test':
        data.faults.add(
            'images for testing, not used: none of them has an object of these classes',
            f'{len(data.of("test"))} images',
        )
    console.print(table)
    if data.format == 'masks':
        console.print(f'classes: {listing(data.classes, 30)}', markup=False)
    for line in data.faults.lines():
        console.print(f'  {line}', markup=False)


def relative_sides(samples: Sequence[Sample], label: str | None = None) -> np.ndarray:
    """The size of each object (of a class): the square root of its share of the image."""
    things = ((sample, thing) for sample in samples for thing in sample.things if label in (None, thing.label))
    return np.array([(thing.area / (sample.size[0] * sample.size[1])) ** 0.5 for sample, thing in things])
