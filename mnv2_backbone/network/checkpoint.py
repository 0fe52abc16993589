"""Reading checkpoints without running code that is in them.

``torch.load`` reads weights only by default, and then refuses what mmengine writes beside the weights:
its loss histories and NumPy numbers. :func:`mmengine_types` lets exactly these pass, while a loader is at work.
:func:`read_weights_only_everywhere` is for programs that open untrusted files.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..errors import UserError

try:
    from numpy._core import multiarray  # numpy 2
except ImportError:
    from numpy.core import multiarray  # type: ignore[no-redef]  # numpy 1

#: The statistics that mmengine pickles by name with each history: methods of HistoryBuffer, nothing else.
_STATISTICS = ('min', 'max', 'current', 'mean')


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or holds more than weights."""


def _history_statistic(owner: type, name: str) -> Any:
    """Stands in for ``getattr``, by which pickle refers to a method of a class."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(owner, name)
    raise UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r}) is not part of a checkpoint')


@contextmanager
def mmengine_types() -> Iterator[None]:
    """Within it, ``torch.load(weights_only=True)`` reads the checkpoints that mmengine writes.

    Only data types are allowed, none of which runs code; ``getattr``, which mmengine's histories need, is replaced by a
    look-up that returns four methods of ``HistoryBuffer``.
    """
    # A file written with NumPy 1 names numpy.core, one written with NumPy 2 numpy._core: both are read.
    arrays = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for core in ('core', '_core')
        for function in (multiarray._reconstruct, multiarray.scalar)
    ]
    scalars = {type(np.dtype(code)) for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?U'}
    named = (_history_statistic, 'builtins.getattr')
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype, *scalars, *arrays, named]):
        yield


def read_checkpoint(filename: str | os.PathLike[str], map_location: Any = 'cpu', mmap: bool = False) -> Any:
    """Reads a local checkpoint, weights and plain data only.

    The ``meta['config']`` of very old checkpoints is left out: mmengine would execute it as Python on resuming. With
    ``mmap`` the tensors stay on the disk until they are used.

    Raises:
        CheckpointError: The file is missing, incomplete, or contains objects other than data.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(f'checkpoint {filename} does not exist')
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # torch.load does not compare checksums
                    raise ValueError(f'wrong checksum of {damaged}')
        with mmengine_types():
            checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and zipped)
    except UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        if found is None:
            raise CheckpointError(f'{filename} is not a PyTorch checkpoint, or it is damaged') from error
        raise CheckpointError(
            f'{filename} was refused: it holds more than weights ({found[1]}), and reading that could run code '
            'of its author; ask the author for a file with weights only'
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f'{filename} is not a PyTorch checkpoint, or it is damaged: {error}') from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict', {}), dict):
        raise CheckpointError(f'{filename} is a PyTorch file without a state dict')
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def read_weights_only_everywhere() -> None:
    """Makes this process read every checkpoint as weights only, whoever opens it. For programs, not for libraries.

    PyTorch's own switch covers downloads, other packages and mmengine forks; local files get our messages.
    """
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    CheckpointLoader.register_scheme('', read_checkpoint, force=True)


def find_resume_point(work_dir: str | os.PathLike[str]) -> str | None:
    """Finds the newest finished checkpoint in the folder of a run; None if there is none.

    A process that is killed can leave a truncated file, or a pointer to nothing; both are skipped.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'
    named = [folder / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
    saved = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    # By its name alone: a folder that was copied holds its own checkpoints, whatever path is written there.
    for path in named + sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True):
        # torch.save writes a zip archive, whose directory comes last: without it the file is not whole.
        if path.is_file() and zipfile.is_zipfile(path):
            return str(path)
    return None


def refuse_earlier_run(work_dir: str | os.PathLike[str]) -> None:
    """Refuses a folder that holds a finished checkpoint: a run from the beginning would write over it.

    Raises:
        UserError: It does, and the message offers ``--resume``.
    """
    point = find_resume_point(work_dir)
    if point:
        raise UserError(
            f'--work-dir {work_dir}: it holds {Path(point).name} of an earlier run; add --resume to continue that run, '
            'or name another folder'
        )
