"""Errors that the user can fix, the wrapper of all command-line tools, and atomic file writes."""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

#: What mmengine and the packages on it raise for a config or an option that cannot be used.
SETUP_ERRORS = (
    *(TypeError, LookupError, ValueError, OSError, AssertionError),
    *(ImportError, RuntimeError, AttributeError, UnpicklingError),
)


class UserError(Exception):
    """Something the user asked for cannot be done; the message names it and says what to change.

    A command-line tool prints it as one line and exits with status 2, see :func:`command`.
    """


class WeightsError(UserError, ValueError):
    """Weights that cannot be read, or do not fit the network; the message says what and why."""


def one_line(error: BaseException) -> str:
    """The message of an error as one line; of an error in a data worker, what was raised there."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if 'Original Traceback' in text:
        return lines[-1].partition(': ')[2]
    return ' '.join(lines) or type(error).__name__


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turns a function into the main function of a tool.

    A :class:`UserError` is printed as one line, with exit status 2; with ``PYTHONDEVMODE=1`` its traceback is shown
    instead.
    """

    @functools.wraps(main)
    def run(*args: Any) -> int:
        try:
            return main(*args) or 0
        except UserError as error:
            if sys.flags.dev_mode:
                raise
            print(f'error: {one_line(error)}', file=sys.stderr)
            return 2

    return run


@contextmanager
def setting_up(is_over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns the errors that libraries raise for a config that cannot be used into :class:`UserError`.

    From the moment that ``is_over`` returns True, what is raised is not the user's mistake.
    """
    try:
        yield
    except SETUP_ERRORS as error:
        if isinstance(error, UserError) or is_over():
            raise
        way = 'PYTHONDEVMODE=1 shows where'
        if any('/mmpretrain/' in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
            way = "in mmpretrain, which MMDetection imports: pip install 'transformers<4.54', or uninstall mmpretrain"
        raise UserError(f'{one_line(error)} ({way})') from error


def listing(names: Sequence[Any], most: int = 10) -> str:
    """Names for a message: the first ones, and the number of the others."""
    shown = ', '.join(map(str, names[:most]))
    return f'{shown} and {len(names) - most} more' if len(names) > most else shown


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file to write, which replaces ``path`` in one step when it is on the disk.

    It lies in the folder of ``path``, which is created if needed. If the block fails, ``path`` stays as it was.
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
