"""What the machine itself can do."""

from __future__ import annotations

from typing import Any

import torch

SIDE = 1536


def matrix_product(turns: Any, device: str, **_: Any) -> None:
    """Multiplies float32 matrices: a rate that hardly any network reaches."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)

    def step() -> None:
        torch.mm(a, b)
        if device == 'cuda':
            torch.cuda.synchronize()

    turns.loop(step, madds=SIDE**3)
