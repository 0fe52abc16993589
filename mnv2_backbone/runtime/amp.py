"""Mixed precision that does not need a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


def multiplies_bfloat16(device: str | None = None) -> bool:
    """Whether a device has instructions for bfloat16; emulated it is slower than float32.

    Args:
        device: ``'cpu'`` or ``'cuda'``; by default the one that trains.
    """
    if (device or get_device()) == 'cuda':
        return torch.cuda.get_device_capability() >= (8, 0)
    known: Mapping[str, object] = getattr(torch.cpu, 'get_capabilities', dict)()  # an older torch cannot tell
    return any(known.get(name) for name in ('avx512_bf16', 'amx_bf16', 'bf16'))


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` that runs the forward pass in bfloat16, on the CPU as on a GPU.

    mmengine's ``AmpOptimWrapper`` refuses to work without an accelerator. bfloat16 has float32's
    range, so no loss scaling is needed.

    Args:
        enabled: Whether to; None: where the device multiplies bfloat16, that is where it is faster.
        **kwargs: As for ``OptimWrapper``.
    """

    def __init__(self, enabled: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.enabled = multiplies_bfloat16() if enabled is None else enabled

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Casts what is computed within, on top of ``OptimWrapper.optim_context``."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16, enabled=self.enabled):
            yield
