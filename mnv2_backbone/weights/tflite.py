"""TensorFlow Lite models (``.tflite``), float or quantized, read by their schema (PyPI ``tflite``)."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from .formats import Imported, need
from .slim import LOGITS_SCOPE, from_slim

_DTYPES = {'FLOAT32': '<f4', 'FLOAT16': '<f2', 'INT32': '<i4', 'UINT8': 'u1', 'INT8': 'i1'}


def read_tflite(path: Path) -> Imported:
    """Reads a model; quantized weights are converted back to floats.

    Norms are always folded in this format. slim's names are used if the converter kept them; if it merged names, the
    layers of the backbone and its logits are recognized by their order.
    """
    convolutions = _convolutions(path)
    if not convolutions:
        raise WeightsError('there is no convolution in this file')
    scopes = [re.sub(r'/(weights|depthwise_weights)$', '', name) for name, *_ in convolutions]
    if any(';' in scope for scope in scopes):
        scopes = _scopes_by_order([depthwise for _, depthwise, *_ in convolutions])
        if len(set(scopes)) < len(scopes):
            raise WeightsError('its layers have lost their names, and in order they are not those of a classifier')
    variables = {}
    for scope, (_, depthwise, weights, bias) in zip(scopes, convolutions):
        variables[f'{scope}/{"depthwise_weights" if depthwise else "weights"}'] = from_tflite_layout(weights)
        variables[f'{scope}/biases'] = bias
    return from_slim(variables)


def _convolutions(path: Path) -> list[tuple[str, bool, np.ndarray, np.ndarray]]:
    """Name of the weights, whether depthwise, weights and bias of each convolution, in order."""
    tflite = need('tflite', 'tflite', 'TensorFlow Lite models (.tflite)')
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    ops = {tflite.BuiltinOperator.CONV_2D: False, tflite.BuiltinOperator.DEPTHWISE_CONV_2D: True}
    found = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex())
        depthwise = ops.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if depthwise is None:
            continue
        weights, bias = (graph.Tensors(operator.Inputs(j)) for j in (1, 2))
        name = weights.Name().decode()
        found.append((name, depthwise, _values(tflite, model, weights), _values(tflite, model, bias)))
    return found


def _values(tflite: Any, model: Any, tensor: Any) -> np.ndarray:
    names = {getattr(tflite.TensorType, name): dtype for name, dtype in _DTYPES.items()}
    if tensor.Type() not in names:
        raise WeightsError(f'{tensor.Name().decode()}: weights of type {tensor.Type()} are not known')
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if isinstance(stored, int):  # flatbuffers' answer for an empty vector
        raise WeightsError(f'{tensor.Name().decode()}: its weights are not in the file')
    values = np.frombuffer(stored.tobytes(), names[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
    scheme = tensor.Quantization()
    if scheme is None or not scheme.ScaleLength():
        return values.astype(np.float32)
    shape = np.ones(values.ndim, dtype=int)
    shape[scheme.QuantizedDimension() if scheme.ScaleLength() > 1 else 0] = -1
    scale, zero = scheme.ScaleAsNumpy().reshape(shape), scheme.ZeroPointAsNumpy().reshape(shape)
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)


def from_tflite_layout(weights: np.ndarray) -> np.ndarray:
    """OHWI to HWIO, and depthwise 1HWC to HWC1."""
    return weights.transpose(1, 2, 3, 0)


def _scopes_by_order(depthwise: list[bool]) -> list[str]:
    """slim's scopes of a classifier's convolutions, from which of them are depthwise."""
    scopes: list[str] = []
    blocks = 0
    for i, own in enumerate(depthwise):
        before, after = depthwise[i - 1 : i] == [True], depthwise[i + 1 : i + 2] == [True]
        block = f'MobilenetV2/expanded_conv_{blocks}' if blocks else 'MobilenetV2/expanded_conv'
        if own:
            scopes.append(f'{block}/depthwise')
        elif before:
            scopes.append(f'{block}/project')
            blocks += 1
        elif i == 0:
            scopes.append('MobilenetV2/Conv')
        elif after:
            scopes.append(f'{block}/expand')
        else:
            scopes.append('MobilenetV2/Conv_1' if 'MobilenetV2/Conv_1' not in scopes else LOGITS_SCOPE)
    return scopes
