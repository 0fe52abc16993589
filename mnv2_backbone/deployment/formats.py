"""Writing a network in a format that other runtimes read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


def to_onnx(network: nn.Module, sample: Tensor, path: Path, dynamic: bool = True) -> None:
    """Writes an ONNX file.

    Args:
        network: With ``inputs`` and ``outputs``, the names of what goes in and comes out.
        sample: An input; of the pictures (N, H, W, 3) of a whole network, or maps (N, 3, H, W).
        path: The file.
        dynamic: Whether N, H and W are free.
    """
    import onnxscript
    from onnxscript import opset18 as op

    def keeps(boxes, scores, iou_threshold: float):  # type: ignore[no-untyped-def]  # onnxscript's own language
        most = op.Constant(value_int=9223372036854775807)
        found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), most, iou_threshold)
        where = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(where), [0], [1]))
        return op.Cast(op.ScatterND(op.Sub(scores, scores), where, ones), to=onnxscript.BOOL.dtype)

    sizes = {0: torch.export.Dim('batch'), 1: torch.export.Dim('height'), 2: torch.export.Dim('width')}
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            (sample,),
            dynamo=True,
            dynamic_shapes=(sizes,) if dynamic else None,
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            opset_version=18,
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.mnv2_backbone.nms_keeps.default: keeps},
        )
    program.save(str(path), external_data=False)
