"""A user's folder of images and annotations: its files by name, what belongs together, and its splits."""

import os
import re
from collections import defaultdict
from pathlib import Path

from ..errors import UserError, listing
from .files import IMAGES

SPLITS = ('train', 'val', 'test')
_SPLIT = re.compile(r'(?<![a-z])(train|val|valid|validation|test)(ing)?(?![a-z])')
#: Folders that hold results, and images made from masks.
_NOT_DATA = re.compile(r'\.|__MACOSX$|work_dirs$|runs$|SegmentationObject|.*Visualization$|.*_color$')
_OF_MASKS = re.compile(r'mask|label|annot|seg|target|ground.?truth|(^|_)gt($|_)')
_OF_IMAGES = re.compile(r'image|img|photo|picture|input')
_MASK_NAME = re.compile(r'(_(mask|labels?|L|gt|seg|segmentation))$|(\.jpe?g|\.png)$')


def split_of(path: str | Path) -> str:
    """The split that the parts of a relative path name (``valid/images``, ``instances_val2017``), or an empty text."""
    for part in reversed(Path(path).parts):
        if found := _SPLIT.search(part.lower()):
            return 'val' if found[1].startswith('val') else found[1]
    return ''


class Folder:
    """The files below a folder, without hidden ones.

    ``images`` are those to learn from, ``masks`` PNG files that lie in a folder for masks, or end in ``_mask``, and
    have the name of an image; ``lonely_masks`` are those without an image.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        files = []
        for folder, inside, names in os.walk(self.root, followlinks=True):
            inside[:] = [name for name in inside if not _NOT_DATA.match(name)]
            files += [Path(folder, name) for name in names if not name.startswith('.')]
        files.sort()
        self.others = [path for path in files if path.suffix.lower() not in IMAGES]
        every = [path for path in files if path.suffix.lower() in IMAGES]
        maybe = [path for path in every if path.suffix.lower() == '.png' and self._is_like_a_mask(path)]
        self.images = sorted(set(every) - set(maybe))
        self._index()
        self.masks = [path for path in maybe if mask_stem(path) in self._stems]
        self.lonely_masks = sorted(set(maybe) - set(self.masks))
        if len(self.masks) <= len(self.lonely_masks):  # a folder may be called anything
            self.images, self.masks, self.lonely_masks = every, [], []
            self._index()

    def _index(self) -> None:
        self._stems: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            self._stems[image.stem].append(image)
        self._known = set(self.images)

    def _is_like_a_mask(self, path: Path) -> bool:
        """By its name, or the innermost of its folders that says what it is for."""
        parts = [part.lower() for part in reversed(path.relative_to(self.root).parent.parts)]
        told = next((part for part in parts if _OF_MASKS.search(part) or _OF_IMAGES.search(part)), '')
        return bool(_MASK_NAME.search(path.stem) or (_OF_MASKS.search(told) and not _OF_IMAGES.search(told)))

    def short(self, path: Path) -> str:
        """A path as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def split_of(self, path: Path) -> str:
        """The split that the folders of a file name, or an empty text."""
        return split_of(path.relative_to(self.root).parent) if path.is_relative_to(self.root) else ''

    def image(self, name: str, near: Path) -> Path | None:
        """The image that the annotation file ``near`` calls ``name``: a path, or a name with or without its suffix.

        Of images of that name the one is taken whose folders have most names in common with those of the annotation,
        the split included.

        Raises:
            UserError: There are several that have as many.
        """
        wanted = Path(name.replace('\\', '/'))
        for base in (near.parent, self.root):
            if (exact := Path(os.path.normpath(base / wanted))) in self._known:
                return exact
        found = self._stems.get(wanted.name) or self._stems.get(wanted.stem, [])
        if wanted.suffix.lower() not in IMAGES:
            found = self._stems.get(wanted.name, [])
        if same := [path for path in found if path.name == wanted.name]:
            found = same
        if len(found) > 1:
            context = {*Path(self.short(near)).parts[:-1], *wanted.parts[:-1]}
            split = split_of(self.short(near))
            shared = [
                len(context & set(path.relative_to(self.root).parts[:-1]))
                + (bool(split) and self.split_of(path) == split)
                for path in found
            ]
            found = [path for path, count in zip(found, shared) if count == max(shared)]
        if len(found) > 1:
            names = listing([self.short(path) for path in found], 4)
            raise UserError(f'{self.short(near)} may belong to {names}: give the images different names')
        return found[0] if found else None


def mask_stem(path: Path) -> str:
    """The name of a mask's image, without suffix."""
    return _MASK_NAME.sub('', path.stem)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        UserError: The file is no text.
    """
    try:
        return [line.strip() for line in path.read_text('utf-8-sig').splitlines() if line.strip()]
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f'{path} cannot be read as text: {error}') from error
