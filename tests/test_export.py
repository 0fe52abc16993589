"""Exported files against the models they come from, written and run as a user does."""

from __future__ import annotations

import copy
import json
import pickle
import re
import resource
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, disturb
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('onnxruntime', reason='exported files need pip install .[export]')
import onnx
import openvino
from toy.dataset import write_toy_dataset
from toy.scene import CLASSES

from mnv2_backbone.deployment.backends import FORMATS
from mnv2_backbone.deployment.export import ExportOptions, export
from mnv2_backbone.deployment.predictor import Predictor
from mnv2_backbone.errors import UserError
from mnv2_backbone.training import command_line as cli
from mnv2_backbone.training.cpu import multiplies_bfloat16
from mnv2_backbone.training.options import load_config

# Few layers: tracing takes most of the time.
DETECTOR = {
    'model.backbone.out_indices': ('layer_4/expansion_output', 'layer_5'),
    'model.backbone.init_cfg': None,
    'model.neck.extra_channels': (64,),
    'model.bbox_head.anchor_generator.num_levels': 3,
    'model.test_cfg.nms_pre': 300,
    'model.test_cfg.max_per_img': 30,
    'test_dataloader.dataset.pipeline.1.scale': (96, 96),
    'test_dataloader.num_workers': 0,
    'test_dataloader.persistent_workers': False,
}
SEGMENTER = {
    'model.backbone.out_indices': ('layer_5',),
    'model.backbone.init_cfg': None,
    'model.data_preprocessor.test_cfg.size': (97, 97),
}


def build(folder, config, options, scope):
    """A model with weights at random, as a checkpoint, a config and the options for the command line."""
    path = str(ROOT / 'configs' / config)
    cfg = load_config(path, options)
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    disturb(model)
    with torch.no_grad():  # clear cases, as after training: scores that differ, and not one class everywhere
        if scope == 'mmdet':
            for branch in model.bbox_head.cls_convs:
                branch[1].weight *= 20
        else:
            logits = model.decode_head(model.backbone(torch.rand(1, 3, 97, 97) * 2 - 1))
            model.decode_head.conv_seg.bias -= logits.mean((0, 2, 3))
    checkpoint = folder / 'model.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    line = ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in options.items())]
    return SimpleNamespace(config=path, cfg=cfg, weights=str(checkpoint), options=line, folder=folder)


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp('detector')
    toy = write_toy_dataset(folder / 'toy', train=6, val=4)
    built = build(folder, 'ssdlite_mnv2_demo.py', {**DETECTOR, 'data_root': str(toy)}, 'mmdet')
    built.toy, built.onnx = toy, folder / 'detector.onnx'
    done = tool('export', built.config, built.weights, '--out', built.onnx, *built.options)
    assert done.returncode == 0, done.stderr
    built.images = [cv2.imread(str(path)) for path in sorted((toy / 'val').glob('*.jpg'))]
    built.files = {ExportOptions('onnx'): built.onnx}

    def file(precision, format='onnx', nms=False):
        """Exports once in this process."""
        wish = ExportOptions(format, precision, toy / 'train' if precision == 'int8' else None, nms)
        if wish not in built.files:
            out = folder / f'{format}_{precision}_{nms}{FORMATS[format].suffix}'
            cfg = load_config(built.config, {**DETECTOR, 'data_root': str(toy)})
            with graph_of(built.files.get(ExportOptions('onnx', nms=nms)) if format in ('onnx', 'openvino') else None):
                export(cfg, built.weights, wish, out)
            built.files[wish] = out
        return built.files[wish]

    built.file = file
    built.predict = Predictor.from_checkpoint(built.cfg, built.weights)
    return built


@contextmanager
def graph_of(path):
    """Takes the ONNX graph that other files begin with from one that is there: tracing it again takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        if path is not None:
            patch.setattr('mnv2_backbone.deployment.graph.to_onnx', lambda *_: onnx.load(path))
        yield


def tool(name, *arguments, **options):
    command = [sys.executable, f'tools/{name}.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def raw(path, image):
    """Boxes and scores before NMS."""
    return Predictor.from_file(path).run.run(image[None])[:2]


def same_objects(found, wanted, atol):
    assert len(found) == len(wanted) > 5
    torch.testing.assert_close(found.scores, wanted.scores, atol=atol, rtol=0)
    # of all but equal scores either may come first
    near = (found.bboxes[:, None] - wanted.bboxes).abs().amax(2) < 0.5
    near &= (found.labels[:, None] == wanted.labels) & ((found.scores[:, None] - wanted.scores).abs() < atol)
    assert near.any(0).float().mean() > 0.9


def test_a_file_finds_what_the_model_finds_in_images_of_any_size_and_number(detector):
    exported = Predictor.from_file(detector.onnx)
    shapes = {image.shape for image in detector.images}
    assert len(shapes) > 1
    for image, found in zip(detector.images, exported(detector.images)):
        same_objects(found, detector.predict([image])[0], atol=2e-3)  # the resizing may differ by 1 of 255
    first = detector.images[0]
    small = cv2.resize(first, (96, 96))  # nothing to resize: only the arithmetic differs
    together = exported([small, small[::-1].copy(), small])
    assert torch.equal(together[0].bboxes, together[2].bboxes)
    for image, found in zip([small, small[::-1].copy()], together):
        same_objects(found, detector.predict([image])[0], atol=1e-4)


def test_every_format_and_precision_is_near_float32(detector):
    image = detector.images[0]
    boxes, scores = raw(detector.onnx, image)
    nearness = {}
    for format, precision in (('openvino', 'bf16'), ('pt2', 'fp32'), ('onnx', 'int8')):
        path = detector.file(precision, format)
        assert Predictor.from_file(path).manifest.precision == precision
        other = raw(path, image)
        nearness[format, precision] = float(np.abs(other[1] - scores).max())
        assert np.quantile(np.abs(other[0] - boxes), 0.95) < {'fp32': 0.01, 'bf16': 4, 'int8': 12}[precision]
    assert nearness['pt2', 'fp32'] < 1e-3
    # without the instructions OpenVINO computes in float32
    rounded = nearness['openvino', 'bf16'] > 1e-5
    assert rounded == multiplies_bfloat16('cpu') and nearness['openvino', 'bf16'] < 0.05
    assert 1e-5 < nearness['onnx', 'int8'] < 0.2
    compiled = Predictor.from_file(detector.file('fp32', 'pt2'))
    planes = [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in detector.images]
    for plane, want in zip(planes, Predictor.from_file(detector.onnx)(detector.images)):
        same_objects(compiled([plane.transpose(1, 2, 0)])[0], want, atol=1e-3)  # whatever the order in memory


def test_int8_is_per_channel_and_leaves_images_and_boxes_alone(detector):
    graph = onnx.load(detector.file('int8')).graph
    makers = {output: node for node in graph.node for output in node.output}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == 'Conv']
    quantized = [node for node in convolutions if makers[node.input[0]].op_type == 'DequantizeLinear']
    assert len(quantized) == len(convolutions) - 3
    for node in quantized:
        weight = makers[node.input[1]]
        assert sizes[weight.input[1]] == sizes[weight.input[0]][:1] != ()
    for node in graph.node:
        if node.op_type in ('Resize', 'Sigmoid', 'Softmax', 'Exp', 'Mul', 'Sub'):
            assert not any(makers[x].op_type == 'DequantizeLinear' for x in node.input if x in makers), node.op_type


@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_nms_inside_a_file_finds_what_nms_after_it_finds(detector, format):
    detector.file('fp32', 'onnx', nms=True)
    inside, outside = Predictor.from_file(detector.file('fp32', format, nms=True)), Predictor.from_file(detector.onnx)
    assert inside.manifest.nms and not outside.manifest.nms
    for got, want in zip(inside(detector.images), outside(detector.images)):
        same_objects(got, want, atol=1e-4)
    two = [detector.images[0], detector.images[0][:, ::-1].copy()]
    assert [len(found) for found in inside(two)] == [len(inside([image])[0]) for image in two]


def test_nms_inside_a_file_may_have_fewer_candidates_than_its_limits(detector, tmp_path):
    limits = {'model.test_cfg.nms_pre': 10**6, 'model.test_cfg.max_per_img': 10**5}
    small = {'data_root': str(detector.toy), 'test_dataloader.dataset.pipeline.1.scale': (32, 32)}
    cfg = load_config(detector.config, {**DETECTOR, **limits, **small})
    export(cfg, detector.weights, ExportOptions('onnx', nms=True), tmp_path / 'few.onnx')
    (found,) = Predictor.from_file(tmp_path / 'few.onnx')(detector.images[:1])
    (expected,) = Predictor.from_checkpoint(cfg, detector.weights)(detector.images[:1])
    assert len(found.scores) == pytest.approx(len(expected.scores), abs=2)


def test_openvinos_model_api_finds_the_same_objects(detector):
    models = pytest.importorskip('model_api.models', reason='openvino-model-api is missing: make test installs it')
    path = detector.file('fp32', 'openvino', nms=True)
    run, model = Predictor.from_file(path), models.DetectionModel.create_model(str(path), device='CPU')
    assert model.params.confidence_threshold == 0.4
    model.set_param('confidence_threshold', 0.1)
    for image in detector.images:
        image = np.ascontiguousarray(image[: image.shape[0] * 2 // 3])  # height and width differ
        ((expected,), found) = run([image]), model(image)
        clear = expected.scores > 0.1
        boxes = expected.bboxes.round()
        clear &= (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 1  # it leaves out others
        assert 0 < clear.sum() == len(found.scores)
        np.testing.assert_allclose(found.scores, expected.scores[clear], atol=1e-5)
        np.testing.assert_allclose(found.bboxes, boxes[clear], atol=1)
        assert found.label_names == [CLASSES[label] for label in expected.labels[clear]]


def test_the_time_around_a_network_is_measured(detector, tmp_path):
    found = tool('overhead', tmp_path, detector.onnx)
    assert (found.returncode, found.stderr) == (2, f'error: {tmp_path}: there are no .jpg images in it\n')
    cv2.imwrite(str(tmp_path / 'x.jpg'), detector.images[0])
    found = tool('overhead', tmp_path, detector.onnx, '--rounds', 2, '--threads', 1)
    times = re.search(r'onnx: network ([\d.]+) ms, image to result ([\d.]+) ms, ([\d.]+) times', found.stdout)
    assert times and float(times[2]) / float(times[1]) == pytest.approx(float(times[3]), rel=0.05)


def test_only_images_are_accepted(detector):
    run, image = Predictor.from_file(detector.onnx), detector.images[0]
    assert run([]) == []
    for wrong in (image / 255, image.astype(np.uint16), image[..., 0], image[:0], image[..., :2], image.tolist()):
        with pytest.raises(ValueError, match=r'image 1 has the shape .* must be \(H, W, 3\), uint8, BGR'):
            run([image, wrong])


@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_threads_may_share_a_file(detector, format):
    predict = Predictor.from_file(detector.file('fp32', format))
    images = detector.images * 4
    wanted = [predict([image])[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(lambda image: predict([image])[0], images), wanted):
            assert torch.equal(found.bboxes, alone.bboxes) and torch.equal(found.labels, alone.labels)


def test_a_file_may_be_dropped_by_any_thread(detector):
    """OpenVINO then frees the signal stack of the thread that loaded it: the next signal would end the program."""
    files = [str(detector.file('fp32', format)) for format in ('onnx', 'openvino', 'pt2')]
    code = f"""
import gc, signal, subprocess, threading
from mnv2_backbone.deployment.predictor import Predictor
models = [Predictor.from_file(path) for path in {files}]
thread = threading.Thread(target=lambda: (models.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: print('a child has ended'))  # as PyTorch's data loaders have one
subprocess.run(['true'])
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'a child has ended\n'), done.stderr


def test_what_has_to_be_known_is_in_the_file(detector):
    (entry,) = [prop for prop in onnx.load(detector.onnx).metadata_props if prop.key == 'mnv2_backbone']
    manifest = json.loads(entry.value)
    assert manifest['recipe']['classes'] == list(CLASSES) and manifest['precision'] == 'fp32'
    path = detector.file('bf16', 'openvino')
    info = openvino.Core().read_model(path).get_rt_info(['mnv2_backbone']).astype(str)
    assert json.loads(info)['recipe'] == manifest['recipe'] and json.loads(info)['precision'] == 'bf16'
    recipe = Predictor.from_file(detector.file('fp32', 'pt2')).recipe
    assert recipe == Predictor.from_file(detector.onnx).recipe
    assert recipe.size == (96, 96) and recipe.sampling == 'opencv' and recipe.test_cfg['max_per_img'] == 30


@pytest.mark.parametrize('file', [('fp32', 'onnx'), ('int8', 'onnx'), ('fp32', 'onnx', True)])
def test_an_onnx_file_is_valid_and_names_its_axes(detector, file):
    model = onnx.load(detector.file(*file))
    onnx.checker.check_model(model, full_check=True)
    assert b'File "' not in model.SerializeToString()  # where the exporter came from
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert axes == {'images': ['batch', 'height', 'width', 3]}
    for value in model.graph.output:
        batch, number = value.type.tensor_type.shape.dim[:2]
        assert batch.dim_param == 'batch' and number.dim_value > 1


def test_tools_run_the_file_as_they_run_the_checkpoint(detector, tmp_path, capsys):
    predictions = {}
    for model in (detector.weights, str(detector.onnx)):
        out = tmp_path / f'{Path(model).suffix}.pkl'
        line = [detector.config, model, '--work-dir', str(tmp_path / 'work'), '--out', str(out), *detector.options]
        assert cli.test(line) == 0
        predictions[model] = pickle.loads(out.read_bytes())
    assert 'Average Precision' in capsys.readouterr().out
    for want, got in zip(*predictions.values()):
        assert want['img_id'] == got['img_id']
        same_objects(*(SimpleInstances(x['pred_instances']) for x in (got, want)), atol=2e-3)
    assert cli.test([str(ROOT / 'configs/ssdlite_mnv2_coco.py'), str(detector.onnx)]) == 2
    assert 'has 8 classes' in capsys.readouterr().err
    line = [detector.config, str(detector.onnx), *detector.options, 'model.test_cfg.score_thr=0.3']
    assert cli.test(line) == 2
    assert 'detector.onnx has a test_cfg of its own' in capsys.readouterr().err

    image = next((detector.toy / 'val').glob('*.jpg'))
    line = ['--weights', detector.onnx, '--out-dir', tmp_path / 'out', '--score-thr', 0]
    done = tool('infer', image, *line)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f'out/{image.stem}.json').read_text())['objects']
    (wanted,) = Predictor.from_file(detector.onnx)([cv2.imread(str(image))])
    assert [thing['label'] for thing in found] == [CLASSES[label] for label in wanted.labels]
    assert (tmp_path / f'out/{image.stem}.jpg').is_file()


class SimpleInstances:
    """What a pickled prediction holds, by attribute."""

    def __init__(self, values):
        self.scores, self.labels, self.bboxes = values['scores'], values['labels'], values['bboxes']

    def __len__(self):
        return len(self.scores)


def test_a_segmenter_takes_images_of_any_size(tmp_path):
    built = build(tmp_path, 'deeplabv3lite_mnv2_voc_tf.py', SEGMENTER, 'mmseg')
    predict = Predictor.from_checkpoint(built.cfg, built.weights)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    # smaller than what images are padded to, and larger, even and odd
    images = [cv2.resize(coarse, size) for size in ((80, 97), (61, 150), (128, 130))]
    for format, suffix in (('onnx', '.onnx'), ('openvino', '.xml')):
        out = tmp_path / f'segmenter{suffix}'
        with graph_of(tmp_path / 'segmenter.onnx' if format == 'openvino' else None):
            export(load_config(built.config, SEGMENTER), built.weights, ExportOptions(format), out)
        exported = Predictor.from_file(out)
        assert exported.recipe.size is None and exported.recipe.task == 'segment'
        for image, labels in zip(images, exported(images)):
            wanted = predict([image])[0]
            assert labels.shape == wanted.shape and len(np.unique(wanted)) > 1
            assert (labels == wanted).mean() > 0.999
        assert len(exported([images[0]] * 3)) == 3


@pytest.mark.parametrize('padded', [(64, 64), (97, 80)])
def test_a_segmenter_that_resizes_labels_the_pixels_of_the_original(padded, tmp_path):
    options = {
        'model.backbone.out_indices': ('layer_5',),
        'model.backbone.init_cfg': None,
        'model.data_preprocessor.test_cfg.size': padded,
        'test_dataloader.dataset.pipeline.1.scale': (64, 64),
    }
    built = build(tmp_path, 'deeplabv3lite_mnv2_demo.py', options, 'mmseg')
    out = tmp_path / 'segmenter.onnx'
    export(load_config(built.config, options), built.weights, ExportOptions('onnx'), out)
    exported, predict = Predictor.from_file(out), Predictor.from_checkpoint(built.cfg, built.weights)
    assert exported.recipe.size == (64, 64)
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for image in (cv2.resize(coarse, (64, 64)), cv2.resize(coarse, (90, 71))):
        wanted = predict([image])[0]
        assert len(np.unique(wanted)) > 1
        assert (exported([image])[0] == wanted).mean() > 0.99
    if padded != (64, 64):
        with pytest.raises(UserError, match=r'resized to \(64, 64\), then padded to \(97, 80\), which this format'):
            export(load_config(built.config, options), built.weights, ExportOptions('ncnn'), tmp_path / 'x.param')


def test_files_that_belong_to_another_are_not_replaced(detector, tmp_path):
    (tmp_path / 'model.bin').write_text('weights')
    for format, suffix in (('openvino', '.xml'), ('ncnn', '.param')):
        with pytest.raises(UserError, match=r'model\.bin, which belongs to another file, would be replaced'):
            export(detector.cfg, detector.weights, ExportOptions(format), tmp_path / f'model{suffix}')
    assert (tmp_path / 'model.bin').read_text() == 'weights'


def test_the_names_of_the_classes_are_as_many_as_the_model_has(detector):
    cfg = copy.deepcopy(detector.cfg)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset])
    (found,) = Predictor.from_checkpoint(cfg, detector.weights)(detector.images[:1])
    same_objects(found, detector.predict(detector.images[:1])[0], 1e-6)
    cfg.test_dataloader.dataset.datasets[0].metainfo = dict(classes=('a', 'b'))
    with pytest.raises(UserError, match='the model has 8 classes, but there are names for 2'):
        Predictor.from_checkpoint(cfg, detector.weights)


MISTAKES = [
    (dict(format='coreml'), '--format coreml: allowed are onnx, openvino, pt2, tflite'),
    (dict(format='onnx', precision='int4'), '--precision int4: allowed are fp32, bf16, int8'),
    (dict(format='onnx', precision='bf16'), '--precision bf16: not available in onnx files, only in openvino and pt2'),
    (
        dict(format='pt2', precision='int8', calib=Path('x')),
        '--precision int8: not available in pt2 files, only in onnx and openvino',
    ),
    (dict(format='onnx', precision='int8'), '--precision int8 needs --calib'),
    (dict(format='onnx', calib=Path('x')), '--calib is for --precision int8'),
    (dict(format='pt2', nms=True), '--nms: only onnx, openvino, tflite files have NMS inside; for pt2 it runs outside'),
    (dict(format='onnx', size=(0, 300)), '--input-size 0 300: allowed are'),
]


@pytest.mark.parametrize(('options', 'words'), MISTAKES)
def test_options_that_do_not_go_together_are_named(options, words):
    with pytest.raises(UserError, match=words):
        ExportOptions(**options)


@contextmanager
def full_disk(size):
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_a_full_disk_is_one_line_and_leaves_nothing(detector, tmp_path, monkeypatch, capsys, format):
    (tmp_path / 'empty').mkdir()
    out = tmp_path / f'new/x{dict(onnx=".onnx", openvino=".xml")[format]}'
    line = ['export.py', detector.config, detector.weights, '--format', format, '--out', str(out), *detector.options]
    main = runpy.run_path(str(ROOT / 'tools/export.py'))['main']
    monkeypatch.setattr(sys, 'argv', [*line, '--precision', 'int8', '--calib', str(tmp_path / 'empty')])
    assert main() == 2
    assert capsys.readouterr().err == f'error: {empty(tmp_path)}'
    monkeypatch.setattr(sys, 'argv', line)
    with graph_of(detector.onnx):
        with full_disk(50_000):
            assert main() == 2
        (error,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith('error: ')]
        assert list(out.parent.iterdir()) == []
        assert main() == 0 and out.is_file()


def empty(folder):
    return f'--calib {folder}/empty: no images in it; known are .jpg .jpeg .png .bmp .webp .tif .tiff\n'


def test_a_missing_library_is_named_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setattr('mnv2_backbone.deployment.backends.find_spec', lambda name: None)
    with pytest.raises(UserError, match='--format openvino needs .*openvino: pip install "mnv2_backbone.export."'):
        ExportOptions('openvino')


def test_ncnn_files_find_what_the_model_finds_and_belong_together(detector, tmp_path):
    path = detector.file('fp32', 'ncnn')
    for image in detector.images:
        (found,), (wanted,) = Predictor.from_file(path)([image]), detector.predict([image])
        same_objects(found, wanted, 1e-3)
    for suffix in ('.param', '.bin', '.json'):
        shutil.copy(path.with_suffix(suffix), tmp_path / f'copy{suffix}')
    for suffix in ('.bin', '.json'):
        (tmp_path / f'copy{suffix}').unlink()
        with pytest.raises(UserError, match=rf'copy\{suffix} does not exist: it belongs to .*copy\.param'):
            Predictor.from_file(tmp_path / 'copy.param')
        shutil.copy(path.with_suffix(suffix), tmp_path / f'copy{suffix}')
    (tmp_path / 'copy.json').write_text('{}')
    with pytest.raises(UserError, match=r'copy\.param cannot be loaded by ncnn'):
        Predictor.from_file(tmp_path / 'copy.param')
    shutil.copy(path.with_suffix('.json'), tmp_path / 'copy.json')
    (tmp_path / 'copy.param').write_text('7767517\n')
    with pytest.raises(UserError, match=r'copy\.param cannot be loaded by ncnn'):
        Predictor.from_file(tmp_path / 'copy.param')([detector.images[0]])


def test_files_of_others_and_damaged_ones_are_refused(detector, tmp_path):
    model = onnx.load(detector.onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'foreign.onnx')
    with pytest.raises(UserError, match='foreign.onnx .*not written by mnv2 export'):
        Predictor.from_file(tmp_path / 'foreign.onnx')
    (tmp_path / 'cut.onnx').write_bytes(detector.onnx.read_bytes()[:-500])
    with pytest.raises(UserError, match='cut.onnx cannot be loaded by onnxruntime'):
        Predictor.from_file(tmp_path / 'cut.onnx')
    (tmp_path / 'alone.xml').write_bytes(detector.file('bf16', 'openvino').read_bytes())
    with pytest.raises(UserError, match='alone.bin does not exist'):
        Predictor.from_file(tmp_path / 'alone.xml')
    weights = detector.file('bf16', 'openvino').with_suffix('.bin').read_bytes()
    (tmp_path / 'alone.bin').write_bytes(weights[:1000])
    with pytest.raises(UserError, match='alone.xml cannot be loaded by openvino: ') as error:
        Predictor.from_file(tmp_path / 'alone.xml')
    assert '.cpp' not in str(error.value)  # the reason, not a place in the sources of OpenVINO
    with pytest.raises(UserError, match=r'nothing\.onnx does not exist'):
        Predictor.from_file(tmp_path / 'nothing.onnx')
