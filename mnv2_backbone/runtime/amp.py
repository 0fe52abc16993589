"""Mixed precision that does not need a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` that runs the forward pass in bfloat16, on the CPU as on a GPU.

    mmengine's ``AmpOptimWrapper`` refuses to work without an accelerator. bfloat16 has float32's
    range, so no loss scaling is needed.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Casts what is computed within, on top of ``OptimWrapper.optim_context``."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
