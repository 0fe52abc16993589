"""int8 instead of floating point, after training."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import IMAGES, evenly, files_below
from ..data.images import LoadImage, is_whole
from ..errors import UserError

#: Convolutions that stay in floating point, counted from the image on (the first layer and the first bottleneck). Their
#: few channels differ widely: DeepLabv3 loses 1.1 points of mIoU if they are int8 and none if not, for 6% of the time.
FIRST = 3
#: Images for calibration at most, spread evenly over the folder.
MOST_IMAGES = 128


class CalibrationImages(Sequence[np.ndarray]):
    """Images (1, H, W, 3), BGR, uint8, to calibrate with, from a folder and the folders in it; read when used.

    Raises:
        UserError: There are none, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f'--calib {folder}: the folder does not exist')
        files = [path for path in files_below(folder) if path.suffix.lower() in IMAGES]
        self.files = [files[i] for i in evenly(len(files), MOST_IMAGES)]
        if not files:
            raise UserError(f'--calib {folder}: no images in it; known are {" ".join(IMAGES)}')
        self._load = LoadImage(imdecode_backend='cv2').transform
        for file in self.files:
            if not is_whole(file):
                raise UserError(f'--calib: {file} is not an image that can be read')

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        loaded = self._load(dict(img_path=str(self.files[index])))
        assert loaded is not None, 'it raises for a damaged image'
        return loaded['img'][None]


def quantize_onnx(model: Any, images: Sequence[np.ndarray]) -> Any:
    """Quantizes an ``onnx.ModelProto`` of one input with ONNX Runtime: static, QDQ, weights for each channel.

    (NNCF takes ONNX graphs too, but ONNX Runtime needs almost three times as long for its results.)
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter({model.graph.input[0].name: image} for image in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    # The exporter has done what ONNX Runtime would otherwise advise to do first.
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
            # averages the range over the images: the range of all together, and so the step, grows with their number
            extra_options=dict(CalibMovingAverage=True),
        )
        return onnx.load(quantized)


def quantize_openvino(model: Any, images: Sequence[np.ndarray]) -> Any:
    """Quantizes an ``openvino.Model`` of one input with NNCF, weights for each channel."""
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
        nncf.Dataset(images),
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=outside(sources, convolutions) + convolutions[:FIRST]),
    )


def outside(sources: dict[str, list[str]], convolutions: Sequence[str]) -> list[str]:
    """The operations before the first and after the last convolutions: images, scores and boxes stay exact.

    ``sources`` has for each operation those it takes its inputs from, in an order in which they can be computed.
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
