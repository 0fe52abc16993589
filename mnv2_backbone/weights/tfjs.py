"""TensorFlow.js graph models: ``model.json`` and its shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .graph import Node, node_inputs, read_variables
from .imported import Imported, WeightsError
from .keras import from_keras
from .slim import from_slim


def read_tfjs(path: Path) -> Imported:
    """Reads a graph model, or a layers model of Keras's MobileNetV2.

    Args:
        path: ``model.json``, or the folder that holds it; the shards lie beside it.

    Returns:
        The weights in our layout.

    Raises:
        WeightsError: A shard is missing or has the wrong size, or the graph cannot be used.
    """
    path = path / 'model.json' if path.is_dir() else path
    weights = read_weights(path)
    topology = json.loads(path.read_text())['modelTopology']
    if 'node' not in topology:
        return from_keras(weights)
    nodes = [
        Node(
            node['name'],
            node['op'],
            node_inputs(node.get('input', ())),
            weights.get(node['name']),
            _epsilon(node.get('attr', {})),
        )
        for node in topology['node']
    ]
    return from_slim(read_variables(nodes))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads every constant of a model by its name.

    Args:
        path: ``model.json``.

    Raises:
        WeightsError: A shard is missing or has the wrong size.
    """
    arrays: dict[str, np.ndarray] = {}
    for group in json.loads(path.read_text())['weightsManifest']:
        arrays.update(_read_group(group, path.parent))
    return arrays


def _read_group(group: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    shards = [folder / name for name in group['paths']]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise WeightsError(f'shards are missing beside model.json: {", ".join(missing)}')
    data = b''.join(shard.read_bytes() for shard in shards)
    arrays, start = {}, 0
    for entry in group['weights']:
        quantized = entry.get('quantization', {})
        stored = np.dtype(quantized.get('dtype', entry['dtype'])).newbyteorder('<')
        count = int(np.prod(entry['shape'], dtype=np.int64))
        end = start + count * stored.itemsize
        if end > len(data):
            raise WeightsError(f'the shards end after {len(data)} bytes, inside {entry["name"]!r}')
        array = np.frombuffer(data[start:end], stored).reshape(entry['shape'])
        if 'scale' in quantized:
            array = array.astype(np.float32) * quantized['scale'] + quantized['min']
        arrays[entry['name']] = array.astype(entry['dtype'])
        start = end
    if start != len(data):
        raise WeightsError(f'the shards hold {len(data)} bytes, model.json describes {start}')
    return arrays


def _epsilon(attrs: dict[str, Any]) -> dict[str, float]:
    return {'epsilon': float(attrs['epsilon']['f'])} if 'epsilon' in attrs else {}
