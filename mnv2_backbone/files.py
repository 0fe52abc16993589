"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a draft to write, and puts it in the place of ``path`` when it is on the disk.

    Args:
        path: The file; its folder is made where it is missing.

    Yields:
        The draft, beside ``path`` and with its suffix. If the block fails, it goes and ``path`` stays as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f'.{os.getpid()}.{target.name}')
    try:
        yield draft
        with draft.open('rb+') as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
