"""``mnv2://NAME`` wherever mmengine takes a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.runner import CheckpointLoader


@CheckpointLoader.register_scheme(prefixes='mnv2://', force=True)
def load_from_mnv2(filename: str, map_location: Any = None, logger: Any = 'current') -> dict[str, Any]:
    """Loads named weights, fetching them first where they are not on this machine.

    Args:
        filename: ``mnv2://`` and a key of :data:`mnv2_backbone.weights.names.WEIGHTS`.
        map_location: As for :func:`torch.load`.
        logger: Not used; mmengine's interface.

    Returns:
        ``state_dict`` and ``meta``.

    Raises:
        WeightsError: See :func:`mnv2_backbone.weights.fetch.obtain`.
    """
    from .fetch import obtain  # the importers are wanted by few

    path = obtain(filename.removeprefix('mnv2://'))
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    return checkpoint
