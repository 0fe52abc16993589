"""Training fast on a CPU: mixed precision, and memory that is kept."""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


def multiplies_bfloat16(device: str | None = None) -> bool:
    """Whether a device, ``'cpu'`` or ``'cuda'``, has instructions for bfloat16; emulated it is slower than float32."""
    if (device or get_device()) == 'cuda':
        return torch.cuda.get_device_capability() >= (8, 0)
    known: Mapping[str, object] = getattr(torch.cpu, 'get_capabilities', dict)()  # missing in older versions
    return any(known.get(name) for name in ('avx512_bf16', 'amx_bf16', 'bf16'))


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` that runs the forward pass in bfloat16, on the CPU as on a GPU.

    mmengine's ``AmpOptimWrapper`` refuses to work without an accelerator. bfloat16 has float32's range, so no loss
    scaling is needed. With ``enabled=None`` it is used if the device multiplies bfloat16, which is when it is faster.
    """

    def __init__(self, enabled: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.enabled = multiplies_bfloat16() if enabled is None else enabled

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """``OptimWrapper.optim_context`` with autocast."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16, enabled=self.enabled):
            yield


#: Options of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MIB = 2**20


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step instead of returning it to the system; returns whether it does.

    Training on a CPU frees and allocates the same large maps in every step, and by default the system provides each
    anew, page by page: a third of the time of a step. Not done with a GPU, whose maps are not in this memory, or with
    another C library. For programs, not for libraries: it concerns the whole process.
    """
    if torch.cuda.is_available():
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return all(mallopt(*option) for option in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * _MIB)))
