"""Files that appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Gives a place to write a file and those that belong to it; they move to theirs when the block ends well.

    Args:
        path: Where the file shall be; its folder is made if missing. What is written beside the draft moves first.

    Raises:
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}.') as folder:
        place = Path(folder, path.name)
        yield place
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == place):
            file.replace(path.with_name(file.name))
