"""What image files are called, where they are, samples of them; imports little, so wrong names are reported at once."""

import os
from collections.abc import Callable
from pathlib import Path

#: The suffixes of image files.
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def files_below(root: Path, skip: Callable[[Path, list[str]], bool] = lambda folder, names: False) -> list[Path]:
    """All files in a folder and those below it, sorted; links that lead nowhere too.

    Links to folders are followed, but no folder is entered twice. ``skip`` is asked with a folder below the first and
    the names of its files.
    """
    files, seen = [], set()
    for folder, inside, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen or (Path(folder) != root and skip(Path(folder), names)):
            inside.clear()
            continue
        seen.add(place)
        files += [Path(folder, name) for name in names]
    return sorted(files)


def evenly(count: int, most: int) -> list[int]:
    """Positions spread evenly over ``count``, ``most`` of them at most."""
    number = min(count, most)
    return [i * count // number for i in range(number)]
