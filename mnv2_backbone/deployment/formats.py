"""Whole networks as the graphs that other runtimes read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor

from ..errors import UserError
from . import whole
from .manifest import KEY, Manifest
from .quantize import quantize_onnx, quantize_openvino
from .trace import traced
from .whole import WholeDetector, WholeSegmenter

Whole = WholeDetector | WholeSegmenter


def of_any_size(network: Whole) -> torch.export.ExportedProgram:
    """Traces a whole network, free in the number and the size of the pictures."""
    return traced(network, torch.zeros(2, 300, 420, 3, dtype=torch.uint8), (0, 1, 2))


def to_onnx(network: Whole) -> Any:
    """A whole network as an ONNX graph.

    Args:
        network: What to translate.

    Returns:
        ``onnx.ModelProto``, its inputs and outputs named as the network says.
    """
    program: Any = torch.onnx.export(
        of_any_size(network),
        (),
        dynamo=True,
        input_names=list(network.inputs),
        output_names=list(network.outputs),
        opset_version=18,
        verbose=False,
        custom_translation_table=_translations(),
    )
    return program.model_proto


def _translations() -> dict[Any, Any]:
    """The operators of this package in ONNX."""
    import onnxscript

    op: Any = onnxscript.opset18

    def keeps(boxes: Any, scores: Any, iou_threshold: float) -> Any:
        most = op.Constant(value_int=9223372036854775807)
        found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), most, iou_threshold)
        where = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(where), [0], [1]))
        return op.Cast(op.ScatterND(op.Sub(scores, scores), where, ones), to=onnxscript.BOOL.dtype)

    def same(x: Any, weight: Any, bias: Any, stride: int, groups: int) -> Any:
        return op.Conv(x, weight, bias, auto_pad='SAME_UPPER', strides=[stride, stride], group=groups)

    def resize(x: Any, height: int, width: int, centres: bool) -> Any:
        size = op.Concat(op.Shape(x, start=0, end=2), op.Constant(value_ints=[height, width]), axis=0)
        mode = 'half_pixel' if centres else 'asymmetric'
        return op.Resize(x, None, None, size, mode='linear', coordinate_transformation_mode=mode)

    own = torch.ops.mnv2_backbone
    return {own.nms_keeps.default: keeps, own.conv_same.default: same, own.bilinear.default: resize}


def to_openvino(network: Whole) -> Any:
    """A whole network as an ``openvino.Model``, by way of ONNX."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'network.onnx')
        path.write_bytes(to_onnx(network).SerializeToString())
        # not read_model, which leaves out the simplifications that NNCF builds on
        model = openvino.convert_model(path)
        model.get_ordered_ops()
        return model


def write_onnx(network: Whole, path: Path, manifest: Manifest, pictures: Sequence[np.ndarray]) -> None:
    """Writes an ``.onnx`` file.

    Args:
        network: What to write.
        path: The file.
        manifest: The metadata that goes in; its precision is the file's.
        pictures: (1, H, W, 3) each, to quantize with.
    """
    import onnx

    model = to_onnx(network)
    if manifest.precision == 'int8':
        model = quantize_onnx(model, pictures)
    onnx.helper.set_model_props(model, {KEY: manifest.to_json()})
    path.write_bytes(model.SerializeToString())


def write_openvino(network: Whole, path: Path, manifest: Manifest, pictures: Sequence[np.ndarray]) -> None:
    """Writes an ``.xml`` file and its ``.bin``; arguments as for :func:`write_onnx`."""
    import openvino

    model = to_openvino(network)
    if manifest.precision == 'int8':
        model = quantize_openvino(model, pictures)
    model.set_rt_info(manifest.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def write_pt2(network: Whole, path: Path, manifest: Manifest, pictures: Sequence[np.ndarray]) -> None:
    """Compiles a ``.pt2`` package with TorchInductor; arguments as for :func:`write_onnx`, no pictures are needed.

    Raises:
        UserError: It cannot be compiled, mostly because there is no C++ compiler.
    """
    own = torch.ops.mnv2_backbone
    program = of_any_size(network).run_decompositions(
        {own.conv_same.default: whole.conv_same_by_torch, own.bilinear.default: whole.bilinear_by_torch}
    )
    options = {'aot_inductor.metadata': {KEY: manifest.to_json()}}
    try:
        with torch.no_grad(), torch._inductor.config.patch(freezing=True):
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except (RuntimeError, OSError) as error:
        raise UserError(f'--format pt2 needs a C++ compiler that works: {error}') from error
