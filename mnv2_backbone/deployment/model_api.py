"""What OpenVINO's Model API reads in a detector's file with NMS inside, so that it runs the file without a program.

Source: ``ssd.py`` and ``parameters.py`` of openvino-model-api 0.4.7. Its segmenters need scores of the classes, where
files of this package have label maps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def add_relative_boxes(graph: Any) -> None:
    """Adds the output ``bboxes`` to an ``onnx.ModelProto``: ``boxes`` (n, k, 4) in parts of the image."""
    from onnx import TensorProto, helper, numpy_helper

    axes = numpy_helper.from_array(np.array([2, 1, 2, 1]), 'bboxes_axes')
    graph.graph.initializer.append(axes)
    graph.graph.node.extend(
        [
            helper.make_node('Shape', [graph.graph.input[0].name], ['bboxes_shape']),
            helper.make_node('Gather', ['bboxes_shape', 'bboxes_axes'], ['bboxes_sides']),
            helper.make_node('Cast', ['bboxes_sides'], ['bboxes_size'], to=TensorProto.FLOAT),
            helper.make_node('Div', ['boxes', 'bboxes_size'], ['bboxes']),
        ]
    )
    graph.graph.output.append(helper.make_tensor_value_info('bboxes', TensorProto.FLOAT, None))


def model_info(classes: Sequence[str]) -> dict[str, str]:
    """The metadata of a detector of these classes, by name."""
    return dict(
        model_type='ssd',
        labels=' '.join(name.replace(' ', '_') for name in classes),  # blanks separate them
        confidence_threshold='0.4',  # as mnv2 infer has it
    )
