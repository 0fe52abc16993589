"""Networks as graphs, for other runtimes to translate."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def traced(network: nn.Module, sample: Tensor, free: Sequence[int]) -> torch.export.ExportedProgram:
    """Traces a network.

    Args:
        network: Of one tensor; stays as it is.
        sample: An input, of more than one in every free axis: the tracer takes a size of one for a constant.
        free: The axes of the input whose sizes the graph leaves open.
    """
    # channels last in memory only says how PyTorch computes; to the tracer it is a condition on sizes
    network = copy.deepcopy(network).eval()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    with torch.no_grad():
        return torch.export.export(
            network, (sample,), dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in free},)
        )
