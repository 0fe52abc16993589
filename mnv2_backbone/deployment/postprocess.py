"""NMS in a TensorFlow Lite file: ``TFLite_Detection_PostProcess``, which sample programs for boards read.

Source: ``tflite/kernels/detection_postprocess.cc`` of LiteRT. It computes in float32 and does not clip boxes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from .raw import unit_anchors
from .recipe import Manifest

#: The outputs in their order; boxes (1, n, 4) are y1, x1, y2, x2 from 0 to 1.
OUTPUTS = ('boxes', 'classes', 'scores', 'count')


def append_nms(model: Any, manifest: Manifest) -> None:
    """Appends it, in place, to a detector that ends in box codes and scores or logits."""
    recipe, decoding = manifest.recipe, manifest.decoding
    assert decoding is not None
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    ends = {entry.name.decode(): entry.tensorIndex for entry in signature.outputs}
    codes, scores = (_floats(model, ends[name]) for name in ('location', 'score'))
    if decoding['sigmoid']:
        scores = _float_step(model, schema.BuiltinOperator.LOGISTIC, scores)
    anchors = unit_anchors(manifest)
    model.buffers.append(schema.BufferT(anchors.astype('<f4').reshape(-1).view(np.uint8)))
    priors = _tensor(model, 'anchors', anchors.shape, len(model.buffers) - 1)
    most = recipe.test_cfg['max_per_img']
    shapes = [(1, most, 4), (1, most), (1, most), (1,)]
    results = [_tensor(model, name, shape) for name, shape in zip(OUTPUTS, shapes)]
    options = dict(
        max_detections=most,
        max_classes_per_detection=1,
        detections_per_class=most,
        use_regular_nms=True,
        nms_score_threshold=float(recipe.test_cfg['score_thr']),
        nms_iou_threshold=float(recipe.test_cfg['nms']['iou_threshold']),
        num_classes=len(recipe.classes),
        **{f'{side}_scale': 1 / std for side, std in zip('yxhw', decoding['stds'])},
    )
    step = add_step(
        model, schema.BuiltinOperator.CUSTOM, [codes, scores, priors], results, 'TFLite_Detection_PostProcess'
    )
    step.customOptions = np.frombuffer(flexbuffers.Dumps(options), np.uint8)
    graph.outputs = results
    signature.outputs = [schema.TensorMapT(name.encode(), number) for name, number in zip(OUTPUTS, results)]


def _floats(model: Any, number: int) -> int:
    """The tensor itself if it is of floats, or else one of its values as floats."""
    if model.subgraphs[0].tensors[number].type == schema.TensorType.FLOAT32:
        return number
    return _float_step(model, schema.BuiltinOperator.DEQUANTIZE, number)


def _float_step(model: Any, operator: int, number: int) -> int:
    """Applies an operator to each value of a tensor."""
    tensor = model.subgraphs[0].tensors[number]
    result = _tensor(model, f'{tensor.name.decode()}_{operator}', tensor.shape)
    add_step(model, operator, [number], [result])
    return result


def _tensor(model: Any, name: str, shape: Sequence[int], buffer: int = 0) -> int:
    tensors = model.subgraphs[0].tensors
    tensors.append(schema.TensorT(list(shape), schema.TensorType.FLOAT32, buffer, name.encode()))
    return len(tensors) - 1


def add_step(
    model: Any, operator: int, inputs: list[int], outputs: list[int], name: str | None = None, first: bool = False
) -> Any:
    """Adds an operator, of a custom one the ``name`` too, before or after all others; its tensors are there already."""
    model.operatorCodes.append(schema.OperatorCodeT(operator, name, builtinCode=operator))
    step = schema.OperatorT(len(model.operatorCodes) - 1, inputs, outputs)
    operators = model.subgraphs[0].operators
    operators.insert(0 if first else len(operators), step)
    return step
