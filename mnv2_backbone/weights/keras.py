"""Keras's ``applications.MobileNetV2``: weights in ``.h5``, and its layers' names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from .formats import Imported, need
from .fpnlite import from_detector
from .slim import LOGITS_SCOPE, from_slim

_LEAVES = {
    'kernel': 'weights',
    'depthwise_kernel': 'depthwise_weights',
    'gamma': 'BatchNorm/gamma',
    'beta': 'BatchNorm/beta',
    'moving_mean': 'BatchNorm/moving_mean',
    'moving_variance': 'BatchNorm/moving_variance',
}
#: Keras's layers and slim's scopes.
_LAYERS = {
    r'(bn_)?Conv1': 'Conv',
    r'Conv_1(_bn)?': 'Conv_1',
    r'expanded_conv_(depthwise|project)(?:_BN)?': r'expanded_conv/\1',
    r'block_(\d+)_(expand|depthwise|project)(?:_BN)?': r'expanded_conv_\1/\2',
}
#: The classifier's name in the versions of Keras.
_LOGITS = ('Logits', 'predictions')


def read_keras(path: Path) -> Imported:
    """Reads a model or its weights: HDF5 as ``model.save`` or ``model.save_weights`` of Keras 1 and 2 write it."""
    h5py = need('h5py', 'h5py', 'Keras files (.h5)')
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        root = file.get('model_weights', file)
        root.visititems(collect)
    if not arrays:
        raise WeightsError('there are no weights in this file')
    return from_keras(arrays)


def from_keras(arrays: Mapping[str, np.ndarray]) -> Imported:
    """Converts the weights of Keras's MobileNetV2, alone, in FPNLite or in another model, whose layers are unknown.

    ``arrays`` are by path, of which the last two parts are read: ``.../block_3_expand/kernel:0``.
    """
    variables: dict[str, np.ndarray] = {}
    detector, used = from_detector(arrays)
    for name, array in arrays.items():
        if name in used:
            continue
        layer, leaf = name.partition(':')[0].split('/')[-2:]
        if layer in _LOGITS and leaf in ('kernel', 'bias'):
            weights = leaf == 'kernel'
            variables[f'{LOGITS_SCOPE}/{"weights" if weights else "biases"}'] = array[None, None] if weights else array
            continue
        scope = next((m.expand(to) for pattern, to in _LAYERS.items() if (m := re.fullmatch(pattern, layer))), None)
        known = scope is not None and leaf in _LEAVES
        variables[f'MobilenetV2/{scope}/{_LEAVES[leaf]}' if known else name] = array
    found = from_slim(variables)
    found.state.update(detector)
    return found
