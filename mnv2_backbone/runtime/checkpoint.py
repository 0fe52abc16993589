"""Reading checkpoints without running code that is in them.

``torch.load`` reads weights only by default since torch 2.6 and then refuses what mmengine writes
beside the weights: its loss histories and numpy numbers. :func:`allow_mmengine_checkpoints` names
exactly these to torch. :func:`read_weights_only_everywhere` is for programs that open a stranger's
file.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version

from ..errors import UserError

try:
    from numpy._core import multiarray  # numpy 2
except ImportError:
    from numpy.core import multiarray  # type: ignore[no-redef]  # numpy 1

#: The statistics that mmengine pickles by name with each history: methods of HistoryBuffer, nothing
#: else.
_STATISTICS = ('min', 'max', 'current', 'mean')


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or asks for more than weights."""


def _history_statistic(owner: type, name: str) -> Any:
    """Stands in for ``getattr``, by which pickle refers to a method of a class."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(owner, name)
    raise UnpicklingError(
        f'GLOBAL builtins.getattr({owner!r}, {name!r}) is not part of a checkpoint'
    )


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

    Only data types are named, none of which runs code; ``getattr``, which mmengine's histories
    need, is replaced by a look-up that answers for four methods of ``HistoryBuffer``. Does nothing
    on torch before 2.6, which has no weights-only default.
    """
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return
    # A file written with numpy 1 names numpy.core, one written with numpy 2 numpy._core: both are
    # read.
    arrays = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for core in ('core', '_core')
        for function in (multiarray._reconstruct, multiarray.scalar)
    ]
    scalars = {
        type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?U'
    }
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *scalars,
            *arrays,
            (_history_statistic, 'builtins.getattr'),
        ]
    )


def read_checkpoint(filename: str | os.PathLike[str], map_location: Any = 'cpu') -> Any:
    """Reads a local checkpoint, weights and plain data only.

    Args:
        filename: A file that ``torch.save`` wrote.
        map_location: As in :func:`torch.load`.

    Returns:
        What the file holds, without the ``meta['config']`` of very old checkpoints, which mmengine
        would execute as Python on resuming.

    Raises:
        CheckpointError: The file is missing, incomplete, or contains objects other than data.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(f'checkpoint {filename} does not exist')
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found is None:
            raise CheckpointError(
                f'{filename} is not a PyTorch checkpoint, or it is damaged'
            ) from error
        raise CheckpointError(
            f'{filename} was refused: it holds more than weights ({found[1]}), and reading that could run code '
            'of its author; ask the author for a file with weights only'
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'{filename} is not a PyTorch checkpoint, or it is damaged: {error}'
        ) from error
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def load_from_weights_only(filename: str, map_location: Any = None) -> Any:
    """Reads a local file for mmengine's ``CheckpointLoader``; see :func:`read_checkpoint`."""
    return read_checkpoint(filename, map_location)


def read_weights_only_everywhere() -> None:
    """Makes every checkpoint this process opens be read as weights only, whoever opens it.

    For programs, not for libraries. It sets torch's own switch for the whole process, so that it
    covers downloads, other packages, and mmengine forks that fall back to full unpickling; and it
    gives local files the messages of :func:`read_checkpoint`.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    CheckpointLoader.register_scheme('', load_from_weights_only, force=True)


def find_resume_point(work_dir: str | os.PathLike[str]) -> str | None:
    """Finds the newest finished checkpoint of a run.

    A process that is killed can leave a truncated file, or a pointer to nothing; both are passed
    over.

    Args:
        work_dir: The folder of the run.

    Returns:
        The path of the checkpoint, or None if there is none.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'
    named = [Path(pointer.read_text().strip())] if pointer.is_file() else []
    saved = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    # A folder that was moved still holds its checkpoints, so look beside the pointer as well as
    # where it points.
    for path in named + sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True):
        # torch.save writes a zip archive, whose directory comes last: without it the file is not
        # whole.
        if path.is_file() and zipfile.is_zipfile(path):
            return str(path)
    return None
