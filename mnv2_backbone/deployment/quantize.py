"""8-bit whole numbers instead of floating point, after training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError

#: So many convolutions, from the pictures on, stay in floating point (the first layer and the first bottleneck). Their
#: few channels differ widely: DeepLabv3 loses 1.1 points of mIoU with them in 8 bits and none without, for 6% of time.
FIRST = 3
#: So many pictures are looked at, spread evenly over the folder.
MOST_PICTURES = 128
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def find_pictures(folder: Path, most: int = MOST_PICTURES) -> list[Path]:
    """Chooses pictures to quantize with.

    Args:
        folder: Searched through with the folders in it.
        most: How many are taken at most.

    Returns:
        Files, spread evenly over the folder in order of their names.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f'--calib {folder}: the folder does not exist')
    files = sorted(path for path in folder.rglob('*') if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f'--calib {folder}: no pictures in it; known are {" ".join(_SUFFIXES)}')
    return [files[i * len(files) // most] for i in range(most)] if len(files) > most else files


def read_pictures(files: Iterable[Path]) -> list[np.ndarray]:
    """Reads pictures.

    Returns:
        (1, H, W, 3) each, BGR, bytes.

    Raises:
        UserError: One cannot be read.
    """
    pictures = []
    for file in files:
        picture = cv2.imread(str(file))
        if picture is None:
            raise UserError(f'--calib: {file} is not a picture that can be read')
        pictures.append(picture[None])
    return pictures


def quantize_onnx(model: Any, pictures: Sequence[np.ndarray]) -> Any:
    """Quantizes an ONNX graph with ONNX Runtime: static, QDQ, weights for each channel.

    Args:
        model: ``onnx.ModelProto`` of one input; changed.
        pictures: Inputs of one picture each, what values are measured on.

    Returns:
        The quantized ``onnx.ModelProto``.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter({model.graph.input[0].name: picture} for picture in pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    # The exporter has done what ONNX Runtime would advise to do before.
    quantization.quant_utils.add_pre_process_metadata(model)
    graph = model.graph
    for number, node in enumerate(graph.node):
        node.name = node.name or f'{node.op_type}_{number}'
    makers = {output: node.name for node in graph.node for output in node.output}
    sources = {node.name: [makers[name] for name in node.input if name in makers] for node in graph.node}
    convolutions = [node.name for node in graph.node if node.op_type == 'Conv']
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder, 'plain.onnx'), Path(folder, 'quantized.onnx')
        onnx.save(model, plain)
        quantization.quantize_static(
            plain,
            quantized,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=['Conv', 'Add', 'Clip', 'Relu', 'Concat', 'GlobalAveragePool'],
            nodes_to_exclude=outside(sources, convolutions) + convolutions[:FIRST],
            # the mean of the pictures' extremes: that of all pictures grows with their number, and the steps with it
            extra_options=dict(CalibMovingAverage=True),
        )
        return onnx.load(quantized)


def quantize_openvino(model: Any, pictures: Sequence[np.ndarray]) -> Any:
    """Quantizes an OpenVINO graph with NNCF, after training, weights for each channel.

    Args:
        model: ``openvino.Model`` of one input.
        pictures: Inputs of one picture each, what values are measured on.

    Returns:
        The quantized ``openvino.Model``.
    """
    import nncf

    operations = [op for op in model.get_ordered_ops() if op.get_type_name() != 'Constant']
    sources = {
        op.get_friendly_name(): [
            source.get_friendly_name()
            for source in (value.get_node() for value in op.input_values())
            if source.get_type_name() != 'Constant'
        ]
        for op in operations
    }
    convolutions = [op.get_friendly_name() for op in operations if op.get_type_name().endswith('Convolution')]
    return nncf.quantize(
        model,
        nncf.Dataset(list(pictures)),
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=outside(sources, convolutions) + convolutions[:FIRST]),
    )


def outside(sources: dict[str, list[str]], convolutions: Sequence[str]) -> list[str]:
    """The operations before the first and after the last convolutions: pictures, scores and boxes stay exact.

    Args:
        sources: For each operation those it takes its inputs from, in an order in which they can be computed.
        convolutions: Which of them are convolutions.

    Returns:
        Their names.
    """
    behind: set[str] = set()  # a convolution comes before them
    for name, inputs in sources.items():
        if name in convolutions or behind.intersection(inputs):
            behind.add(name)
    ahead: set[str] = set()  # a convolution comes after them
    for name in reversed(sources):
        if name in convolutions or name in ahead:
            ahead.update([name, *sources[name]])
    return [name for name in sources if name not in behind or name not in ahead]
