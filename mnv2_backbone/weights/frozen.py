"""TensorFlow's frozen graphs (``.pb``), read with protobuf and without TensorFlow.

Only the fields needed here are declared; numbers and types from ``tensorflow/core/framework/
{graph,node_def,attr_value,tensor,tensor_shape,types}.proto``. Protobuf skips the others.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .graph import Node, node_inputs, read_variables
from .imported import Imported, WeightsError, need
from .slim import from_slim

#: Message to its fields: (name, number, type, repeated); a type that is no scalar is a message above it.
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    'Dim': [('size', 1, 'int64', False)],
    'Shape': [('dim', 2, 'Dim', True)],
    'Tensor': [
        ('dtype', 1, 'int32', False),
        ('shape', 2, 'Shape', False),
        ('content', 4, 'bytes', False),
        ('half_val', 13, 'int32', True),
        ('float_val', 5, 'float', True),
        ('double_val', 6, 'double', True),
        ('int_val', 7, 'int32', True),
        ('int64_val', 10, 'int64', True),
    ],
    'Attr': [('f', 4, 'float', False), ('tensor', 8, 'Tensor', False)],
    'Entry': [('key', 1, 'string', False), ('value', 2, 'Attr', False)],
    'NodeDef': [
        ('name', 1, 'string', False),
        ('op', 2, 'string', False),
        ('input', 3, 'string', True),
        ('attr', 5, 'Entry', True),  # a map is a list of entries on the wire
    ],
    'GraphDef': [('node', 1, 'NodeDef', True)],
}
#: TensorFlow's DataType to numpy's, and the field that holds single values.
_DTYPES = {
    1: ('<f4', 'float_val'),
    2: ('<f8', 'double_val'),
    3: ('<i4', 'int_val'),
    9: ('<i8', 'int64_val'),
    19: ('<f2', 'half_val'),
}


@cache
def graph_def() -> Any:
    """The message class ``GraphDef``.

    Raises:
        WeightsError: protobuf is not installed.
    """
    descriptor_pb2, descriptor_pool, message_factory = (
        need(f'google.protobuf.{module}', 'protobuf', 'frozen graphs (.pb)')
        for module in ('descriptor_pb2', 'descriptor_pool', 'message_factory')
    )
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name='mnv2_backbone/graph.proto', package='mnv2_backbone', syntax='proto3'
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, of, repeated in fields:
            added = message.field.add(name=field, number=number)
            added.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
            if of in _MESSAGES:
                added.type, added.type_name = kind.TYPE_MESSAGE, f'.mnv2_backbone.{of}'
            else:
                added.type = getattr(kind, f'TYPE_{of.upper()}')
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('mnv2_backbone.GraphDef'))


def read_nodes(path: Path) -> list[Node]:
    """Reads the nodes of a graph and what its constants hold.

    Args:
        path: A serialized ``GraphDef``.

    Raises:
        WeightsError: The file is not one, or only a part of one.
    """
    message = graph_def()()
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which has moved between its versions
        raise WeightsError('not a TensorFlow graph, or only a part of one') from error
    if not message.node:
        raise WeightsError('not a TensorFlow graph: there is no node in it')
    nodes = []
    for node in message.node:
        attrs = {entry.key: entry.value for entry in node.attr}
        value = _array(attrs['value'].tensor) if node.op == 'Const' and 'value' in attrs else None
        epsilon = {'epsilon': attrs['epsilon'].f} if 'epsilon' in attrs else {}
        nodes.append(Node(node.name, node.op, node_inputs(node.input), value, epsilon))
    return nodes


def read_frozen(path: Path) -> Imported:
    """Reads a frozen graph into our layout; see :func:`read_nodes`."""
    return from_slim(read_variables(read_nodes(path)))


def _array(tensor: Any) -> np.ndarray | None:
    """A tensor's values; None for types that no weight has."""
    if tensor.dtype not in _DTYPES:
        return None
    dtype, field = _DTYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.shape.dim]
    if tensor.content:
        return np.frombuffer(tensor.content, dtype).reshape(shape)
    values = getattr(tensor, field)
    stored = '<u2' if field == 'half_val' else dtype  # halves come as bit patterns
    single = np.array(values, stored).view(dtype)
    if single.size == 0:
        return np.zeros(shape, dtype)
    rest = int(np.prod(shape, dtype=np.int64)) - single.size  # the last value stands for all that follow
    return np.pad(single, (0, rest), mode='edge').reshape(shape)
