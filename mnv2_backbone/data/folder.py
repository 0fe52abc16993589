"""A user's folder of images and annotations: its files by name, what belongs together, and its splits."""

import re
from collections import defaultdict
from pathlib import Path

from ..errors import UserError, listing
from .files import IMAGES

SPLITS = ('train', 'val', 'test')
_SPLIT = re.compile(r'(?<![a-z])(train|val|valid|validation|test)(ing)?(?![a-z])')
_MASK_FOLDER = re.compile(r'mask|label|annot|segmentation|(^|_)gt($|_)')
_MASK_NAME = re.compile(r'_(mask|labels?|l|gt|seg)$', re.IGNORECASE)


def split_of(path: str | Path) -> str:
    """The split that a relative path names (``valid/a.jpg``, ``instances_val2017.json``), or an empty text."""
    for part in reversed(Path(path).parts):
        if found := _SPLIT.search(part.lower()):
            return 'val' if found[1].startswith('val') else found[1]
    return ''


class Folder:
    """The files below a folder, without hidden ones.

    ``images`` are those to learn from, ``masks`` PNG files that lie in a folder for masks, or end in ``_mask``, and
    have the name of an image.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        hidden = re.compile(r'\.|__MACOSX$')
        paths = (path.relative_to(root) for path in sorted(root.rglob('*')) if path.is_file())
        files = [root / path for path in paths if not any(hidden.match(part) for part in path.parts)]
        self.others = [path for path in files if path.suffix.lower() not in IMAGES]
        pictures = [path for path in files if path.suffix.lower() in IMAGES]
        maybe = [path for path in pictures if path.suffix.lower() == '.png' and self._is_like_a_mask(path)]
        self.images = sorted(set(pictures) - set(maybe))
        self._stems: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            self._stems[image.stem].append(image)
        self.masks = [path for path in maybe if mask_stem(path) in self._stems]
        if not self.masks:  # a folder may be called anything
            for image in maybe:
                self.images.append(image)
                self._stems[image.stem].append(image)

    def _is_like_a_mask(self, path: Path) -> bool:
        parents = path.relative_to(self.root).parent.parts
        return bool(_MASK_NAME.search(path.stem)) or any(_MASK_FOLDER.search(part.lower()) for part in parents)

    def short(self, path: Path) -> str:
        """A path as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def split_of(self, path: Path) -> str:
        """The split that the path of a file in the folder names, or an empty text."""
        return split_of(path.relative_to(self.root)) if path.is_relative_to(self.root) else ''

    def image(self, name: str, near: Path) -> Path | None:
        """The image that the annotation file ``near`` calls ``name``: a path, or a name with or without its suffix.

        Of images of that name the one is taken whose folders have most names in common with those of the annotation,
        the split included.

        Raises:
            UserError: There are several that have as many.
        """
        wanted = Path(name.replace('\\', '/'))
        for base in (near.parent, self.root):
            if wanted.suffix.lower() in IMAGES and (base / wanted).is_file():
                return base / wanted
        found = self._stems.get(wanted.stem if wanted.suffix.lower() in IMAGES else wanted.name, [])
        if exact := [path for path in found if path.name == wanted.name]:
            found = exact
        if len(found) > 1:
            context = {*near.relative_to(self.root).parts[:-1], *wanted.parts[:-1]}
            split = self.split_of(near)
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
