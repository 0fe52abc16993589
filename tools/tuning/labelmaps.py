"""Masks as labelling tools write them, read as label maps: class numbers, 0 and 255, or colours with a legend."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mnv2_backbone.data.folder import Folder, read_lines
from mnv2_backbone.errors import UserError, listing

IGNORED = 255
#: The highest number of a class that needs no name.
MOST = 63
Colour = tuple[int, int, int]


class MaskReader:
    """Reads the masks of a data set, which are looked at once to see what their numbers are.

    ``classes`` are the names of the numbers from 0 on, if the folder has no legend: CVAT's ``labelmap.txt``,
    ``class_dict.csv`` (name, r, g, b), Roboflow's ``_classes.csv`` (number, name) or ``classes.txt``.

    ``numbers`` has the classes that are in each mask.

    Raises:
        UserError: Colours without a legend, or a colour or number that the legend does not have.
    """

    def __init__(self, folder: Folder, masks: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        legend = [] if classes else _legend(folder)
        self.colours = {colour: number for number, (_, colour) in enumerate(legend) if colour}
        values: dict[Path, list[int]] = {mask: np.unique(self._values(mask)).tolist() for mask in masks}
        seen = {value: mask for mask in reversed(masks) for value in values[mask]}
        labels = sorted(value for value in seen if value != IGNORED)
        self.is_binary = not self.colours and labels == [0] and IGNORED in seen
        if self.is_binary:
            labels = [0, 1]
        self.numbers = {
            mask: {int(value == IGNORED) for value in found} if self.is_binary else {*found} - {IGNORED}
            for mask, found in values.items()
        }
        if len(labels) < 2:
            raise UserError(
                f'the masks in {folder.root} have {listing(labels) or "nothing"} only: no two classes to tell apart'
            )
        if not legend and not classes and labels[-1] > MOST:
            raise UserError(
                f'{folder.short(seen[labels[-1]])} has {labels[-1]}: a grey level or a colour, not the number of a '
                'class. Write 0, 1, 2 ... or 0 and 255, or add classes.txt with a name for each number'
            )
        numbered = [f'class_{number}' for number in range(max(labels, default=0) + 1)]
        names = [name for name, _ in legend] or (['background', 'object'] if self.is_binary else numbered)
        names = list(classes or names)
        self.classes = ['background', *names] if self.is_binary and len(names) == 1 else names
        if wrong := [value for value in labels if value >= len(self.classes)]:
            raise UserError(
                f'{folder.short(seen[wrong[0]])} has the number {wrong[0]}, but there are {len(self.classes)} classes: '
                f'{listing(self.classes)}. Numbers count from 0, and 255 is for pixels to ignore'
            )

    def read(self, mask: Path) -> np.ndarray:
        """The label map (H, W), uint8, of a mask file; 255 where pixels are to be ignored."""
        values = self._values(mask)
        return (values == IGNORED).astype(np.uint8) if self.is_binary else values.astype(np.uint8)

    def _values(self, mask: Path) -> np.ndarray:
        try:
            with Image.open(mask) as image:
                mode = image.mode
                grey = mode in ('1', 'L', 'P', 'I', 'I;16')
                rgb = np.asarray(image.convert('RGB')) if self.colours or not grey else None
                plain = np.asarray(image.convert('L') if mode == '1' else image)
        except Exception as error:  # whatever a decoder raises at damaged input
            raise UserError(f'the mask {mask} cannot be read: {error}') from error
        if self.colours and rgb is not None:
            codes = rgb.astype(np.int64) @ (65536, 256, 1)
            known = {r * 65536 + g * 256 + b: number for (r, g, b), number in self.colours.items()}
            found = np.unique(codes)
            unknown = [code for code in found.tolist() if code not in known]
            if not unknown:
                numbers = np.array([known[code] for code in found.tolist()])
                return np.asarray(numbers[np.searchsorted(found, codes)])
            if not grey:
                colour = tuple(divmod(unknown[0] // 256, 256)) + (unknown[0] % 256,)
                raise UserError(f'the mask {mask} has the colour {colour}, which its legend does not have')
        if rgb is not None and plain.ndim == 3:
            if (rgb != rgb[..., :1]).any():
                raise UserError(f'the mask {mask} has colours: add labelmap.txt with a line name:r,g,b for each')
            plain = rgb[..., 0]
        return plain


def _legend(folder: Folder) -> list[tuple[str, Colour | None]]:
    """The names of the classes, with their colours if they are told apart by colours."""
    files = {path.name: path for path in folder.others}
    if path := files.get('labelmap.txt'):
        lines = [line.split(':') for line in read_lines(path) if not line.startswith('#')]
        return [(parts[0], _colour(path, parts[1].split(',') if len(parts) > 1 else [])) for parts in lines]
    if path := files.get('class_dict.csv'):
        return [(row[0], _colour(path, row[1:4])) for row in _rows(path)]
    if path := files.get('_classes.csv'):
        numbers = {row[0]: row[1] for row in _rows(path) if len(row) > 1}
        if any(not number.isdigit() for number in numbers):
            raise UserError(f'{path}: the first column must be the number of the class, the second its name')
        names = {int(number): name for number, name in numbers.items()}
        return [(names.get(number, f'class_{number}'), None) for number in range(max(names, default=-1) + 1)]
    return [(line, None) for line in read_lines(files['classes.txt'], blank=True)] if 'classes.txt' in files else []


def _rows(path: Path) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(read_lines(path))][1:]


def _colour(path: Path, numbers: Sequence[str]) -> Colour:
    try:
        r, g, b = map(int, numbers)
    except ValueError:
        raise UserError(f'{path}: {",".join(numbers)!r} is no colour, must be r,g,b') from None
    return (r, g, b)
