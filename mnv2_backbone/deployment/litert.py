"""TensorFlow Lite files: written by LiteRT's converter and quantizer, with the metadata that MediaPipe Tasks reads.

Schemas: ``tflite/schema/schema.fbs`` of LiteRT, and ``mediapipe/tasks/metadata/{metadata,object_detector_metadata,
image_segmenter_metadata}_schema.fbs``, whose fields are named here by their number.
"""

import copy
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .postprocess import add_step, append_nms
from .raw import unit_anchors
from .recipe import Manifest

Fields = Mapping[int, Any]
_SIGNATURE = 'serving_default'


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the steps and progress bars that the tools print."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@_quietly()
def convert(network: Any, image: Any) -> bytes:
    """A raw network as the content of a file, whose input and outputs have the names of the network's."""
    import litert_torch

    content: bytes = litert_torch.convert(network, sample_kwargs=dict(image=image)).model_content()
    return content


@_quietly()
def quantize(content: bytes, images: Sequence[np.ndarray]) -> bytes:
    """In int8, weights for each channel, calibrated with images (1, h, w, 3), uint8; inputs and outputs are uint8."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(content)
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    # Within the network the mean of the ranges of the images is best, but no code and no score may be cut off.
    last = _last(_unpacked(content))
    each = [tool.calibrate({_SIGNATURE: [dict(image=x.astype(np.float32))]}) for x in images]
    ranges = {}
    for name in each[0]:
        low, high = (np.min, np.max) if name in last else (np.mean, np.mean)
        lows, highs = ([found[name][end] for found in each] for end in ('min', 'max'))
        ranges[name] = dict(min=low(lows, axis=0), max=high(highs, axis=0))
    # A step of the input is a step of a pixel, which goes in unchanged.
    pixel = ranges[f'{_SIGNATURE}_image']
    pixel['min'], pixel['max'] = np.zeros_like(pixel['min']), np.full_like(pixel['max'], 255)
    result = tool.quantize(ranges).quantized_model
    model = _unpacked(bytes(result))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for entries, ends in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs)):
        for i, inner in enumerate(ends):
            ends[i] = _uint8(model, inner, first=entries is signature.inputs)
            next(entry for entry in entries if entry.tensorIndex == inner).tensorIndex = ends[i]
    return _packed(model)


def _last(model: Any) -> set[str]:
    """The names of the outputs, and of what they are made of back to the last convolutions, these included."""
    graph = model.subgraphs[0]
    makers = {int(output): step for step in graph.operators for output in step.outputs}
    convolutions = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    found, ahead = set(), list(graph.outputs)
    while ahead:
        found.add(number := int(ahead.pop()))
        step = makers.get(number)
        if step and model.operatorCodes[step.opcodeIndex].builtinCode not in convolutions:
            ahead.extend(step.inputs)
    return {graph.tensors[number].name.decode() for number in found}


def _uint8(model: Any, inner: int, first: bool) -> int:
    """Puts a tensor in uint8 of the same values before or after one in int8; returns its number."""
    tensors = model.subgraphs[0].tensors
    outer = copy.deepcopy(tensors[inner])
    outer.type, outer.buffer, outer.name = schema.TensorType.UINT8, 0, f'{outer.name.decode()}_uint8'
    outer.quantization.zeroPoint = [outer.quantization.zeroPoint[0] + 128]
    tensors.append(outer)
    number = len(tensors) - 1
    source, target = (number, inner) if first else (inner, number)
    add_step(model, schema.BuiltinOperator.QUANTIZE, [source], [target], first=first)
    return number


def with_metadata(content: bytes, manifest: Manifest, key: str) -> bytes:
    """Adds NMS if the manifest says so, and metadata: ours under ``key``, MediaPipe's, a file of the classes' names."""
    model = _unpacked(content)
    if manifest.nms:
        append_nms(model, manifest)
    for name, data in ((key, manifest.to_json().encode()), ('TFLITE_METADATA', _mediapipe(model, manifest))):
        model.buffers.append(schema.BufferT(np.frombuffer(data, np.uint8)))
        entry = schema.MetadataT(name, len(model.buffers) - 1)
        model.metadata = [*(model.metadata or []), entry]
    file = io.BytesIO(_packed(model))
    with zipfile.ZipFile(file, 'a') as labels:
        labels.writestr('labels.txt', '\n'.join(manifest.recipe.classes))
    return file.getvalue()


def read_metadata(content: bytes, key: str) -> str | None:
    """What :func:`with_metadata` wrote under a key."""
    model = schema.Model.GetRootAs(content)
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == key.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy()).decode()
    return None


def _unpacked(content: bytes) -> Any:
    """A model as objects; the converter puts weights behind the tables, from where they are fetched."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(content))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 24)
    builder.Finish(model.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def _mediapipe(model: Any, manifest: Manifest) -> bytes:
    recipe, decoding = manifest.recipe, manifest.decoding or {}
    labels = {0: 'labels.txt', 2: np.int8(2)}  # a name for each place of the last axis
    image = {
        0: 'image',
        3: {0: np.int8(2), 1: {0: np.int8(1)}},  # RGB
        4: [{0: np.int8(1), 1: {0: [0.0], 1: [1.0]}}],  # values as they are
        5: {0: [255.0], 1: [0.0]},
    }
    values, ends = {0: np.int8(1), 1: {}}, {0: 2, 1: 2}
    customs: list[Fields] = []
    if recipe.task == 'segment':
        described: dict[str, Fields] = {'logits': {0: 'logits', 3: values, 6: [labels]}}
        single = model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].shape[-1] == 1
        activation = np.int8(1 if single else 2)  # sigmoid, softmax
        customs = [{0: 'SEGMENTER_METADATA', 1: _table({0: activation}, b'V001')}]
    elif manifest.nms:
        box = {0: np.int8(3), 1: {0: np.array([1, 0, 3, 2], np.uint32), 1: np.int8(1)}, 2: ends}
        described = {
            'boxes': {0: 'location', 3: box},
            'classes': {0: 'category', 3: {**values, 2: ends}, 6: [{**labels, 2: np.int8(3)}]},
            'scores': {0: 'score', 3: {**values, 2: ends}},
            'count': {0: 'number of detections', 3: values},
        }
    else:
        boxes = [{0: float(x), 1: float(y), 2: float(w), 3: float(h)} for y, x, h, w in unit_anchors(manifest)]
        scales = [1 / std for std in decoding['stds']]
        coding = {
            0: len(recipe.classes),
            1: len(boxes),
            2: 4,
            5: 2,
            6: scales[1],
            7: scales[0],
            8: scales[3],
            9: scales[2],
        }
        options = {1: {0: {0: boxes}}, 2: {**coding, 10: True, 11: bool(decoding['sigmoid'])}}
        customs = [{0: 'DETECTOR_METADATA', 1: _table(options, b'V001')}]
        box = {0: np.int8(3), 1: {0: np.arange(4, dtype=np.uint32), 1: np.int8(1)}, 2: ends}
        score = {0: 'score', 3: {**values, 2: ends}, 6: [labels]}
        described = {'location': {0: 'location', 3: box}, 'score': score}
    graph = {2: [image], 3: [described[output] for output in output_names(model)], 9: customs}
    return _table({0: 'mnv2_backbone', 3: [graph], 7: '1.0.0'}, b'M001')


def output_names(model: Any) -> list[str]:
    """The names of a model's outputs, in its order."""
    names = {entry.tensorIndex: entry.name for entry in model.signatureDefs[0].outputs}
    return [names[number].decode() for number in model.subgraphs[0].outputs]


def _table(fields: Fields, identifier: bytes) -> bytes:
    """Packs nested tables: values by number of field; integers of one byte are NumPy's."""
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(_pack(builder, fields), identifier)
    return bytes(builder.Output())


def _pack(builder: Any, fields: Fields) -> int:
    offsets = {number: _reference(builder, value) for number, value in fields.items()}
    builder.StartObject(max(fields, default=-1) + 1)
    for number, value in fields.items():
        if offsets[number] is not None:
            builder.PrependUOffsetTRelativeSlot(number, offsets[number], 0)
        elif isinstance(value, (bool, np.int8)):
            builder.PrependInt8Slot(number, int(value), 0)
        elif isinstance(value, int):
            builder.PrependInt32Slot(number, value, 0)
        else:
            builder.PrependFloat32Slot(number, value, 0.0)
    return int(builder.EndObject())


def _reference(builder: Any, value: Any) -> int | None:
    """Packs a text, an array, a table or a list of tables; None for a number, which is part of its table."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, bytes):
        builder.StartVector(1, len(value), 16)
        builder.head -= len(value)
        builder.Bytes[builder.head : builder.head + len(value)] = value
        return int(builder.EndVector())
    if isinstance(value, Mapping):
        return _pack(builder, value)
    if isinstance(value, list) and value and isinstance(value[0], float):
        return int(builder.CreateNumpyVector(np.array(value, np.float32)))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    if isinstance(value, list):
        offsets = [_pack(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    return None
