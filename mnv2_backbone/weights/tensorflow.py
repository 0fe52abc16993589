"""TensorFlow graphs, frozen (``.pb``) or of TensorFlow.js (``model.json`` and its shards), to slim's variables.

Graph optimizers rename and fold: a batch norm becomes a constant that is multiplied into the weights, or beside them,
and one that is added, sometimes after the residual. So what belongs to a convolution is found by following its output,
not by its name.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from .formats import Imported, need
from .keras import from_keras
from .slim import from_slim
from .unfold import norm_eps

_CONVS = ('Conv2D', '_FusedConv2D')
_DEPTHWISE = ('DepthwiseConv2dNative', 'FusedDepthwiseConv2dNative', '_FusedDepthwiseConv2dNative')
_ADDS = ('Add', 'AddV2', 'AddN', 'BiasAdd')
#: Operations that do not change values.
_SAME = ('Identity', 'BatchToSpaceND', 'CheckNumerics', 'StopGradient')
_NORMS = ('FusedBatchNorm', 'FusedBatchNormV2', 'FusedBatchNormV3')
#: Operations that are computed here if all of their inputs are constant.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    'Identity': np.asarray,
    'Add': np.add,
    'AddV2': np.add,
    'Sub': np.subtract,
    'Mul': np.multiply,
    'Rsqrt': lambda x: 1 / np.sqrt(x),
}
_LEAVES = ('gamma', 'beta', 'moving_mean', 'moving_variance')


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    ``inputs`` are the names of the nodes that it reads, without control inputs and output numbers; ``value`` is that of
    a ``Const``; of the attributes only ``epsilon`` is kept.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    value: np.ndarray | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def node_inputs(names: Iterable[str]) -> tuple[str, ...]:
    """Input references of a graph as names of nodes: ``a:1`` to ``a``, control inputs ``^a`` left out."""
    return tuple(name.partition(':')[0] for name in names if not name.startswith('^'))


def read_variables(nodes: Sequence[Node]) -> dict[str, np.ndarray]:
    """Finds every convolution of a whole graph, with its norm or bias: arrays by slim's names, in TensorFlow's layout.

    A norm with its parameters in the graph keeps them (``scope/BatchNorm/gamma`` ...), a folded one becomes
    ``scope/biases``. The weights of a dense layer have their own name.

    Raises:
        WeightsError: There is no convolution in the graph, or one has no constant weights.
    """
    graph = _Graph(nodes)
    variables: dict[str, np.ndarray] = {}
    for node in nodes:
        if node.op in _CONVS + _DEPTHWISE:
            variables.update(graph.convolution(node))
        elif node.op == 'MatMul' and graph.constant(node.inputs[1]) is not None:
            variables[graph.origin(node.inputs[1])] = graph.constant(node.inputs[1])
    if not variables:
        raise WeightsError('there is no convolution in this graph')
    return variables


class _Graph:
    """Constants, consumers and convolutions of a graph."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.constants: dict[str, Any] = {}
        self.consumers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.inputs:
                self.consumers[name].append(node)

    def constant(self, name: str) -> Any:
        """The value of a node that depends on no input of the network (an array), else None."""
        if name not in self.constants:
            self.constants[name] = None  # also ends loops, which graphs may have
            self.constants[name] = self._evaluate(self.nodes.get(name))
        return self.constants[name]

    def _evaluate(self, node: Node | None) -> Any:
        if node is None or node.value is not None or node.op == 'Const':
            return node and node.value
        compute = _ARITHMETIC.get(node.op)
        values = [self.constant(name) for name in node.inputs] if compute else []
        return compute(*values) if compute and all(x is not None for x in values) else None

    def origin(self, name: str) -> str:
        """The name of the constant behind a node."""
        while self.nodes[name].op == 'Identity':
            name = self.nodes[name].inputs[0]
        return name

    def convolution(self, conv: Node) -> dict[str, np.ndarray]:
        weights = self.constant(conv.inputs[1])
        if weights is None:
            raise WeightsError(f'{conv.name}: its weights are not a constant; freeze the graph first')
        source = self.origin(conv.inputs[1])
        scope = re.sub(r'/(weights|depthwise_weights|Conv2D/merged_input|kernel)$', '', source)
        leaf = 'depthwise_weights' if conv.op in _DEPTHWISE else 'weights'
        axes = (2,) if conv.op in _DEPTHWISE else (3,)
        scale, offset, norm = self._follow(conv)

        named = {part: self.constant(f'{scope}/BatchNorm/{part}') for part in _LEAVES}
        if norm is None and scale is not None and all(x is not None for x in named.values()):
            gamma, beta, mean, var = named.values()
            same = np.allclose(gamma / np.sqrt(var + norm_eps(scope)), scale, rtol=1e-4)
            norm = (gamma, beta, mean, var, norm_eps(scope)) if same else None
        if norm is not None:
            gamma, beta, mean, var, eps = norm
            if abs(eps - norm_eps(scope)) <= 1e-3 * eps:
                arrays = dict(zip(_LEAVES, (gamma, beta, mean, var)))
                norms = {f'{scope}/BatchNorm/{part}': array for part, array in arrays.items()}
                return {f'{scope}/{leaf}': weights, **norms}
            scale = gamma / np.sqrt(var + eps)  # an epsilon we do not build with: taken as folded
            offset = beta - mean * scale
        if scale is not None:
            shape = np.ones(4, dtype=int)
            shape[list(axes)] = -1
            weights = weights * np.asarray(scale).reshape(-1).reshape(shape)
        if offset is None:
            return {f'{scope}/{leaf}': weights}
        channels = weights.shape[axes[0]]
        return {f'{scope}/{leaf}': weights, f'{scope}/biases': np.broadcast_to(offset.ravel(), (channels,))}

    def _follow(self, conv: Node) -> tuple[Any, Any, Any]:
        """Follows a convolution's output: what it is multiplied by, what is added, or the norm after it."""
        fused = [self.constant(name) for name in conv.inputs[2:]]
        if len(fused) == 1 and fused[0] is not None:  # _FusedConv2D with its BiasAdd
            return None, fused[0], None
        if fused:
            raise WeightsError(f'{conv.name}: a fused {conv.op} of {len(conv.inputs)} inputs is not known')
        scale, node = None, conv
        while True:
            for after in self.consumers[node.name]:
                others = [self.constant(name) for name in after.inputs if name != node.name]
                if after.op in _NORMS and after.inputs[0] == node.name:
                    return None, None, (*others[:4], after.attrs.get('epsilon', 1e-3))
                if after.op == 'Mul' and others and others[0] is not None:
                    scale = others[0] if scale is None else scale * others[0]
                    break
                if after.op in _ADDS and others and others[0] is not None:
                    return scale, others[0], None
                if after.op in _ADDS or after.op in _SAME:  # a residual added before the bias
                    break
            else:
                return scale, None, None
            node = after


def read_nodes(path: Path) -> list[Node]:
    """Reads the nodes of a serialized ``GraphDef`` and the values of its constants."""
    message = need('tensorboard.compat.proto.graph_pb2', 'tensorboard', 'frozen graphs (.pb)').GraphDef()
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which has moved between its versions
        raise WeightsError('not a TensorFlow graph, or only a part of one') from error
    if not message.node:
        raise WeightsError('not a TensorFlow graph: there is no node in it')
    nodes = []
    for node in message.node:
        value = _constant(node.attr['value'].tensor) if node.op == 'Const' and 'value' in node.attr else None
        epsilon = {'epsilon': node.attr['epsilon'].f} if 'epsilon' in node.attr else {}
        nodes.append(Node(node.name, node.op, node_inputs(node.input), value, epsilon))
    return nodes


def read_frozen(path: Path) -> Imported:
    """Reads a frozen graph into our layout; see :func:`read_nodes`."""
    return from_slim(read_variables(read_nodes(path)))


def _constant(tensor: Any) -> np.ndarray | None:
    """A tensor's values; None for types that no weight has."""
    from tensorboard.util.tensor_util import make_ndarray

    try:
        array: np.ndarray = make_ndarray(tensor)
    except TypeError:
        return None
    return array if array.dtype.kind in 'fi' else None


def read_tfjs(path: Path) -> Imported:
    """Reads a graph model, or a layers model of Keras's MobileNetV2: ``model.json`` or its folder, shards beside it."""
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
    """Reads every constant of a ``model.json`` by its name."""
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
