"""A user's folder of images and annotations: its files by name, what belongs together, and its splits."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, listing
from .files import IMAGES, files_below

SPLITS = ('train', 'val', 'test')
#: What lists and folders of a split are called.
SPLIT_NAMES = dict(
    train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test'
)
_SPLIT = re.compile(f'(?<![a-z])({"|".join(SPLIT_NAMES)})(?![a-z])')
#: Folders that hold results, and, unless there are annotations in them, images made from masks.
_NOT_DATA = re.compile(r'\.|__MACOSX$|work_dirs$|runs$|SegmentationObject')
_DRAWN = re.compile(r'.*(Visualization|_color)$')
_ANNOTATIONS = ('.xml', '.json', '.txt')
_OF_MASKS = re.compile(r'mask|label|annot|seg|target|ground.?truth|(^|_)gt($|_)')
_OF_IMAGES = re.compile(r'image|img|photo|picture|input')
_MASK_NAME = re.compile(r'(_(mask|labels?|L|gt|seg|segmentation))$|(\.jpe?g|\.png)$')


def split_of(path: str | Path) -> str:
    """The split that the parts of a relative path name (``valid/images``, ``instances_val2017``), or an empty text."""
    parts = [part.lower() for part in reversed(Path(path).parts)]
    for part in [part for part in parts if part in SPLIT_NAMES] or parts:
        if found := _SPLIT.search(part):
            return SPLIT_NAMES[found[1]]
    return ''


def _is_no_data(folder: Path, names: Sequence[str]) -> bool:
    annotated = any(name.lower().endswith(_ANNOTATIONS) for name in names)
    return bool(_NOT_DATA.match(folder.name) or (_DRAWN.match(folder.name) and not annotated))


class Folder:
    """The files below a folder, without hidden ones.

    ``images`` are those to learn from, ``masks`` PNG files that lie in a folder for masks, or end in ``_mask``, and
    have the name of an image; ``lonely_masks`` are those without an image.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        files = [path for path in files_below(self.root, _is_no_data) if not path.name.startswith('.')]
        self.others = [path for path in files if path.suffix.lower() not in IMAGES]
        self._annotated = {path.with_suffix('') for path in self.others if path.suffix.lower() in _ANNOTATIONS}
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
        self._folders = {part for image in self.images for part in image.relative_to(self.root).parts[:-1]}
        self._splits = {self.split_of(image) for image in self.images}

    def _is_like_a_mask(self, path: Path) -> bool:
        """By its name, or the innermost of its folders that says what it is for; annotations are beside images only."""
        if path.with_suffix('') in self._annotated:
            return False
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
        the split included; none in the folder of another split, or in another folder than the name says, if the folder
        has images in the right one.

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
        split, folders = split_of(self.short(near)), self._folders.intersection(wanted.parts[:-1])
        if folders:
            found = [path for path in found if folders.intersection(path.relative_to(self.root).parts[:-1])]
        if split in self._splits:
            found = [path for path in found if self.split_of(path) in ('', split)]
        if len(found) > 1:
            context = {*Path(self.short(near)).parts[:-1], *wanted.parts[:-1]}
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


def read_lines(path: Path, blank: bool = False) -> list[str]:
    """The lines of a text file, stripped; without those that are blank, or with those before its last.

    Raises:
        UserError: The file is no text.
    """
    try:
        return [line.strip() for line in path.read_text('utf-8-sig').rstrip().splitlines() if blank or line.strip()]
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f'{path} cannot be read as text: {error}') from error
