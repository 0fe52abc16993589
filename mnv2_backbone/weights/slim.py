"""TF-slim variables, by their TensorFlow names (``MobilenetV2/expanded_conv_3/expand/weights``)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..spec import V2_DEF, Row

Arrays = Mapping[str, np.ndarray]

#: TensorFlow's name of a variable inside its layer, and ours.
LEAVES = {
    'weights': 'conv.weight',
    'depthwise_weights': 'conv.weight',
    'biases': 'conv.bias',
    'BatchNorm/gamma': 'bn.weight',
    'BatchNorm/beta': 'bn.bias',
    'BatchNorm/moving_mean': 'bn.running_mean',
    'BatchNorm/moving_variance': 'bn.running_var',
}
LOGITS = 'Logits/Conv2d_1c_1x1/'


def to_torch_layout(name: str, array: np.ndarray) -> Tensor:
    """A variable in torch's layout: HWIO to OIHW, depthwise HWC1 to C1HW, others as they are."""
    if name.endswith('depthwise_weights'):
        array = array.transpose(2, 3, 0, 1)
    elif array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def backbone_scopes(spec: tuple[Row, ...] = V2_DEF) -> dict[str, str]:
    """slim's scope of each layer (``Conv``, ``expanded_conv``, ``expanded_conv_1`` ...) and our name of it."""
    scopes, counts = {}, {'conv': 0, 'bottleneck': 0}
    for number, row in enumerate(spec, start=1):
        base = 'Conv' if row.op == 'conv' else 'expanded_conv'
        count = counts[row.op]
        scopes[f'{base}_{count}' if count else base] = f'layer_{number}'
        counts[row.op] += 1
    return scopes


def from_slim(variables: Arrays, spec: tuple[Row, ...] = V2_DEF) -> dict[str, Tensor]:
    """Converts slim's MobileNetV2, with or without its classifier.

    Args:
        variables: Every variable under its TensorFlow name, in TensorFlow's layout; what a training run
            keeps besides (``global_step``, averages, momenta) is left out.
        spec: The layer table, which gives the layers their numbers.

    Returns:
        State dict with ``backbone.*`` and, where there are logits, ``head.*``.

    Raises:
        ValueError: A name does not belong to MobileNetV2.
    """
    scopes = backbone_scopes(spec)
    state = {}
    for name, array in variables.items():
        if re.search(r'(global_step|ExponentialMovingAverage|Momentum|RMSProp(_1)?|Adam(_1)?)$', name):
            continue
        state[_key(name, scopes)] = to_torch_layout(name, array)
    return state


def _key(name: str, scopes: Mapping[str, str]) -> str:
    _, found, path = name.partition('MobilenetV2/')
    if found and path.startswith(LOGITS):
        return f'head.logits.{"weight" if path.endswith("weights") else "bias"}'
    scope, _, rest = path.partition('/')
    step, leaf = '', rest
    if scope.startswith('expanded_conv'):
        step, _, leaf = rest.partition('/')
        step = re.sub(r'_part_(\d+)$', r'.\1', step) + '.'  # slim's split_conv
    if scope not in scopes or leaf not in LEAVES:
        raise ValueError(f'{name!r} is not a variable of MobileNetV2 with {len(scopes)} layers')
    return f'backbone.{scopes[scope]}.{step}{LEAVES[leaf]}'
