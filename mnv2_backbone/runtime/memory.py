"""How the process gets its memory."""

from __future__ import annotations

import ctypes

import torch

#: Options of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MIB = 2**20


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step instead of giving it back to the system.

    Training on a CPU frees and asks for the same large maps in every step, and by default each comes fresh from the
    system, page by page: a third of the time of a step. For programs, not for libraries: it concerns the whole process.

    Returns:
        Whether it was done: not with a GPU, where the maps are not here, and not with another C library.
    """
    if torch.cuda.is_available():
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return all(mallopt(*option) for option in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * _MIB)))
