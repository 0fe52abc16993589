"""Writing our networks for other runtimes; each function is to be run in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..deployment.fold import fold_norms, settle_padding
from .inputs import our_config
from .ours import CHECKPOINTS, trained_backbone


def model(
    turns: Any, folder: Path, configs: Path, task: str, format: str, precision: str, target: Path, **_: Any
) -> None:
    """A whole detector or segmenter, as ``tools/export.py`` writes it."""
    from ..deployment.export import Wish, export

    if precision == 'int8' and format == 'openvino':
        import nncf  # noqa: F401 - if it is missing, this names it

    calib = folder / 'calibration' if precision == 'int8' else None
    export(our_config(task, configs), str(folder / CHECKPOINTS[task]), Wish(format, precision, calib), target)
    turns.begin()


def backbone_onnx(turns: Any, folder: Path, target: Path, **_: Any) -> None:
    """The backbone, its norms folded, for inputs of one size."""
    network = fold_norms(trained_backbone(folder))
    sample = torch.from_numpy(np.load(folder / 'normalised.npy')[:1])
    settle_padding(network, sample)
    torch.onnx.export(network, (sample,), target, dynamo=True, external_data=False, verbose=False)
    turns.begin()


def backbone_onnx_int8(turns: Any, folder: Path, source: Path, target: Path, **_: Any) -> None:
    """The same in whole numbers, as whole networks are quantized for ONNX Runtime."""
    import onnx

    from ..deployment.quantize import quantize_onnx

    onnx.save(quantize_onnx(onnx.load(source), _calibration(folder)), target)
    turns.begin()


def backbone_openvino_int8(turns: Any, folder: Path, source: Path, target: Path, **_: Any) -> None:
    """The same in whole numbers, as whole networks are quantized for OpenVINO."""
    import openvino

    from ..deployment.quantize import quantize_openvino

    openvino.save_model(quantize_openvino(openvino.Core().read_model(source), _calibration(folder)), target)
    turns.begin()


def _calibration(folder: Path) -> list[np.ndarray]:
    return [x[None] for x in np.load(folder / 'normalised.npy')]
