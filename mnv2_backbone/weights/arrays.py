"""Variables saved by name: ``.npz``, a folder of ``.npy`` files, TensorFlow checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .imported import Imported, need
from .slim import from_slim

#: Names of tensors in a ``.tflite`` file, with ``_`` for ``/``, as the tools that unpack it write them.
_TFLITE = re.compile(
    r'(?P<scope>.+?)(?:_(?P<step>expand|depthwise|project))?'
    r'(?P<leaf>_Conv2D|_depthwise|_Conv2D_bn_offset|_depthwise_bn_offset|_BatchNorm_FusedBatchNorm|_biases)'
)


def read_npz(path: Path) -> Imported:
    """Reads slim's variables by TensorFlow name from ``.npz``."""
    with np.load(path) as arrays:
        return from_slim(dict(arrays))


def read_npy_folder(path: Path) -> Imported:
    """Reads slim's variables from a folder of ``.npy`` files.

    Args:
        path: The folder. A file's path in it is the variable's name (``MobilenetV2/Conv/weights.npy``), or
            its name is that of a tensor of a ``.tflite`` file, in the layout of that format
            (``MobilenetV2_Conv_Conv2D.npy``, ``MobilenetV2_Conv_Conv2D_bn_offset.npy``).
    """
    arrays = {
        file.relative_to(path).with_suffix('').as_posix(): np.load(file)
        for file in sorted(path.rglob('*.npy'))
    }
    return from_slim(dict(_slim_name(name, array) for name, array in arrays.items()))


def _slim_name(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    match = _TFLITE.fullmatch(name.rpartition('/')[2])
    if match is None:
        return name, array
    scope = re.sub(r'^(MobilenetV2|logits)_', r'\1/', match['scope'])
    scope = '/'.join(part for part in (scope, match['step']) if part)
    if array.ndim != 4:
        return f'{scope}/biases', array
    leaf = 'depthwise_weights' if match['leaf'] == '_depthwise' else 'weights'
    return f'{scope}/{leaf}', from_tflite_layout(array)


def from_tflite_layout(weights: np.ndarray) -> np.ndarray:
    """OHWI to HWIO, and depthwise 1HWC to HWC1."""
    return weights.transpose(1, 2, 3, 0)


def read_tf_checkpoint(path: Path) -> Imported:
    """Reads a TensorFlow checkpoint, which takes TensorFlow itself.

    Args:
        path: ``model.ckpt.index``, ``model.ckpt.data-00000-of-00001``, or their common ``model.ckpt``.

    Raises:
        WeightsError: TensorFlow is not installed.
    """
    tensorflow = need('tensorflow', 'tensorflow', 'TensorFlow checkpoints (.ckpt)')
    prefix = re.sub(r'\.(index|data-\d+-of-\d+)$', '', str(path))
    reader = tensorflow.train.load_checkpoint(prefix)
    return from_slim({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
