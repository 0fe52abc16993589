"""Variables of TensorFlow by name, slim's or Keras's: arrays in ``.npz``, checkpoints, SavedModels.

TensorFlow itself is not needed. A checkpoint is a table of names (``.index``, LevelDB's format:
``tensorflow/core/lib/io/format.cc``) and files of raw values (``.data-...``; ``tensorflow/core/util/tensor_bundle``).
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from .formats import Imported
from .fpnlite import from_objects
from .keras import from_keras
from .slim import from_slim

_MAGIC, _FOOTER = 0xDB4775248B80FB57, 48
#: TensorFlow's numbers of types (``DT_FLOAT`` ...); the other types hold no weights.
_TYPES = {1: '<f4', 2: '<f8', 19: '<f2'}
#: Protobuf's wire types of fixed length, in bytes.
_FIXED = {1: 8, 5: 4}


def read_npz(path: Path) -> Imported:
    """Reads variables by name from ``.npz``."""
    with np.load(path) as arrays:
        return from_variables(dict(arrays))


def read_tf_checkpoint(path: Path) -> Imported:
    """Reads a TensorFlow checkpoint, or the folder of a SavedModel."""
    return from_variables(read_bundle(path))


def from_variables(arrays: Mapping[str, np.ndarray]) -> Imported:
    """Converts variables by the names of whatever wrote them."""
    if any('.ATTRIBUTES' in name for name in arrays):
        arrays = from_objects(arrays)
    keras = any(name.rpartition('/')[2] in ('kernel', 'depthwise_kernel') for name in arrays)
    return from_keras(arrays) if keras else from_slim(arrays)


def read_bundle(path: Path) -> dict[str, np.ndarray]:
    """Reads the floating-point variables of a checkpoint: ``model.ckpt``, one of its files, or a SavedModel's folder.

    Raises:
        WeightsError: A file is missing, or holds something else.
    """
    if path.is_dir():
        path = path / 'variables' / 'variables'
    prefix = re.sub(r'\.(index|data-\d+-of-\d+)$', '', str(path))
    entries = list(_table(Path(f'{prefix}.index').read_bytes()))
    if not entries:
        raise WeightsError('its table of variables is empty')
    shards = _message(entries[0][1]).get(1, [1])[0]
    files = [Path(f'{prefix}.data-{i:05}-of-{shards:05}') for i in range(shards)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f'files are missing beside {Path(prefix).name}.index: {", ".join(missing)}')
    data = [np.memmap(file, np.uint8, 'r') if file.stat().st_size else np.zeros(0, np.uint8) for file in files]
    arrays = {}
    for name, value in entries[1:]:
        entry = _message(value)
        if entry.get(1, [0])[0] not in _TYPES:
            continue
        kind = np.dtype(_TYPES[entry[1][0]])
        shape = [_message(size).get(1, [0])[0] for size in _message(entry.get(2, [b''])[0]).get(2, [])]
        start, size = entry.get(4, [0])[0], entry.get(5, [0])[0]
        values = data[entry.get(3, [0])[0]][start : start + size]
        if 7 in entry or len(values) != size or size != math.prod(shape) * kind.itemsize:
            raise WeightsError(f'{name}: its {size} bytes at {start} are not there, or no array of the shape {shape}')
        arrays[name] = np.frombuffer(values.tobytes(), kind).reshape(shape)
    return arrays


def _table(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The entries of a table: names and protobuf messages."""
    if len(data) < _FOOTER or struct.unpack('<Q', data[-8:])[0] != _MAGIC:
        raise WeightsError('its .index is damaged, or of no TensorFlow checkpoint (version 2)')
    footer = data[-_FOOTER:]
    at = 0
    for _ in range(2):  # another index comes first, which is empty
        at = _varint(footer, at)[1]
    for _, handle in _block(data, footer, at):
        for name, value in _block(data, handle, 0):
            yield name.decode(), value


def _block(data: bytes, handle: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block, whose offset and size are in ``handle``; names share their beginnings."""
    offset, at = _varint(handle, at)
    size, _ = _varint(handle, at)
    block = data[offset : offset + size]
    if data[offset + size] != 0:
        raise WeightsError('its .index is compressed, which TensorFlow does not do')
    end = len(block) - 4 * (1 + struct.unpack('<I', block[-4:])[0])
    at, name = 0, b''
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        name = name[:shared] + block[at : at + rest]
        yield name, block[at + rest : at + rest + length]
        at += rest + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def _message(data: bytes) -> dict[int, list]:
    """The fields of a protobuf message: integers, and bytes for texts, messages and numbers of fixed length."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = (_FIXED[tag & 7], at) if tag & 7 in _FIXED else _varint(data, at)
        is_number = tag & 7 == 0
        fields.setdefault(tag >> 3, []).append(size if is_number else data[at : at + size])
        at += 0 if is_number else size
    return fields
