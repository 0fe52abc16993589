"""Writing our networks for other runtimes; each function is to be run in a process of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnv2_backbone.deployment.backends import FORMATS, missing

from .inputs import CHECKPOINTS, our_config
from .ours import trained_backbone
from .workers import Missing


def need(format: str, precision: str) -> None:
    """Raises :class:`.workers.Missing` for the first library that is not installed."""
    for library in missing(FORMATS[format].files[precision]):
        raise Missing(library, name=library)


def model(
    turns: Any, folder: Path, configs: Path, task: str, format: str, precision: str, target: Path, **_: Any
) -> None:
    """A whole detector or segmenter, as ``tools/export.py`` writes it."""
    from mnv2_backbone.deployment.export import ExportOptions, export

    need(format, precision)
    options = ExportOptions(format, precision, folder / 'calibration' if precision == 'int8' else None)
    export(our_config(task, configs), str(folder / CHECKPOINTS[task]), options, target)
    turns.begin()


def backbone(turns: Any, folder: Path, format: str, precision: str, target: Path, **_: Any) -> None:
    """The backbone, its norms folded, for inputs of one size; in int8 quantized as whole networks are."""
    from mnv2_backbone.deployment.folding import fold_norms, settle_padding
    from mnv2_backbone.deployment.graph import traced

    need(format, precision)
    network = fold_norms(trained_backbone(folder))
    inputs = np.load(folder / 'normalised.npy')
    sample = torch.from_numpy(inputs[:1])
    settle_padding(network, sample)
    backend = FORMATS[format]
    graph = backend.convert(traced(network, sample, ()))
    if precision == 'int8':
        graph = backend.quantize(graph, [x[None] for x in inputs])
    backend.write(graph, target, '{}')
    turns.begin()
