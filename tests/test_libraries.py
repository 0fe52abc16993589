"""MobileNetV2 of other PyTorch libraries: the library's own network and ours, after import, compute the same."""

from __future__ import annotations

import inspect
import os
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT
from conftest import shuffled as shuffle
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from mnv2_backbone import Classifier, MobileNetV2
from mnv2_backbone.network.fit import WeightsError, load_backbone, load_into
from mnv2_backbone.training.options import load_config
from mnv2_backbone.weights.convert import read, save


def shuffled(net: torch.nn.Module) -> torch.nn.Module:
    """Random statistics, and double precision: a random network amplifies rounding to near the tolerance."""
    shuffle(net)
    return net.double()


def agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two outputs are the same to 1e-4 of the greatest value."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


def picture() -> torch.Tensor:
    """Of a size that strides do not divide: padding matters."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 65, 97, generator=generator, dtype=torch.float64) * 2 - 1


def check_classifier(theirs: torch.nn.Module, path: Path, width: float) -> None:
    """Imports a classifier's file and compares all logits."""
    found = read(path)
    options = found.meta['backbone']
    assert options.get('widen_factor', 1.0) == width
    assert options['padding'] == 'explicit' and options['norm_cfg']['eps'] == 1e-5
    classes = len(found.state_dict['head.logits.bias'])
    ours = Classifier(classes, **options).eval().double()
    load_into(ours, found.state_dict)
    with torch.no_grad():
        assert agree(ours(picture())['Logits'], theirs(picture()))
    save(found, path.with_name('ours.pth'))  # in our own layout nothing of this is lost
    again = read(path.with_name('ours.pth'), only=['backbone'])
    assert again.meta['backbone'] == options
    assert all(torch.equal(value, found.state_dict[key]) for key, value in again.state_dict.items())


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_torchvision(tmp_path, width):
    theirs = shuffled(torchvision.models.mobilenet_v2(width_mult=width))
    torch.save({f'module.{key}': value for key, value in theirs.state_dict().items()}, tmp_path / 'a.pth')
    check_classifier(theirs, tmp_path / 'a.pth', width)


@pytest.mark.parametrize(('name', 'width'), [('100', 1.0), ('050', 0.5), ('140', 1.4)])
def test_timm(tmp_path, name, width):
    timm = pytest.importorskip('timm')
    from safetensors.torch import save_file

    theirs = shuffled(timm.create_model(f'mobilenetv2_{name}', pretrained=False))
    save_file(theirs.state_dict(), tmp_path / 'model.safetensors')  # sorted by name, unlike torch's
    check_classifier(theirs, tmp_path / 'model.safetensors', width)


def test_timm_of_another_depth(tmp_path):
    timm = pytest.importorskip('timm')
    from mnv2_backbone import V2_DEF, Row

    theirs = shuffled(timm.create_model('mobilenetv2_120d', pretrained=False, num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / 'deep.pth')
    found = read(tmp_path / 'deep.pth')
    assert found.meta['backbone'] is None  # no width of the standard table
    outs = [m.out_channels for n, m in theirs.named_modules() if n.endswith(('conv_pwl', 'blocks.0.0.conv_pw'))]
    strides = [m.stride[0] for n, m in theirs.named_modules() if n.startswith('blocks.') and n.endswith('conv_dw')]
    spec = [
        V2_DEF[0],
        *(Row('bottleneck', out, stride, expand=1 if i == 0 else 6, divisible_by=1 if i == 0 else 8)
          for i, (out, stride) in enumerate(zip(outs, strides))),
        V2_DEF[-1],
    ]  # fmt: skip
    ours = (
        MobileNetV2(spec=spec, out_indices=f'layer_{len(spec)}', padding='explicit', norm_cfg=dict(type='BN', eps=1e-5))
        .eval()
        .double()
    )
    load_backbone(ours, found.state_dict)
    with torch.no_grad():
        assert agree(ours(picture())[0], theirs.forward_features(picture()))


@pytest.mark.parametrize('width', [1.0, 0.5, 1.4])
def test_mmdet_backbone(tmp_path, width):
    from mmdet.models.backbones import MobileNetV2 as Theirs

    theirs = shuffled(Theirs(widen_factor=width, out_indices=range(8)))
    torch.save(theirs.state_dict(), tmp_path / 'mmdet.pth')
    compare_maps(theirs, tmp_path / 'mmdet.pth', width, range(8))


def test_mmdet_detector(tmp_path):
    from mmdet.registry import MODELS as MMDET
    from mmdet.utils import register_all_modules

    register_all_modules()
    cfg = get_config('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py').model
    theirs = MMDET.build({**cfg, 'backbone': {**cfg.backbone, 'init_cfg': None}})
    theirs = shuffled(theirs)
    checkpoint = dict(state_dict=theirs.state_dict(), meta=dict(epoch=1), optimizer=dict())
    torch.save(checkpoint, tmp_path / 'detector.pth')
    with pytest.raises(WeightsError, match=r'\d+ tensors belong to no layer.*neck\.'):
        read(tmp_path / 'detector.pth')
    norm = dict(cfg.backbone.norm_cfg)
    compare_maps(theirs.backbone, tmp_path / 'detector.pth', 1.0, (4, 7), norm_cfg=norm, only=['backbone'])


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_mmseg_backbone(tmp_path, width):
    from mmseg.models.backbones import MobileNetV2 as Theirs

    theirs = shuffled(Theirs(widen_factor=width, out_indices=range(7)))
    state = {f'backbone.{key}': value for key, value in theirs.state_dict().items()}
    state['auxiliary_head.conv_seg.weight'] = torch.zeros(2)
    torch.save(dict(state_dict=state), tmp_path / 'mmseg.pth')
    compare_maps(theirs, tmp_path / 'mmseg.pth', width, range(7), only=['backbone'])


def compare_maps(theirs, path: Path, width: float, indices, only=(), **options) -> None:
    """Imports a backbone's file and compares the maps of all stages, by the library's numbers."""
    found = read(path, only=only)
    assert found.meta['backbone'].get('widen_factor', 1.0) == width
    ours = MobileNetV2(out_indices=tuple(indices), **{**found.meta['backbone'], **options}).eval().double()
    load_backbone(ours, found.state_dict)
    with torch.no_grad():
        expected, maps = theirs(picture()), ours(picture())
    assert len(maps) == len(expected) == len(tuple(indices))
    assert all(agree(a, b) for a, b in zip(maps, expected))


def test_mmpretrain_classifier(tmp_path):
    mmpretrain = pytest.importorskip('mmpretrain')
    mmpretrain.utils.register_all_modules()
    theirs = shuffled(
        MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(type='mmpretrain.MobileNetV2', widen_factor=1.4),
                neck=dict(type='mmpretrain.GlobalAveragePooling'),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=11, in_channels=1792),
            )
        )
    )
    torch.save(dict(state_dict=theirs.state_dict(), meta={}), tmp_path / 'mmpretrain.pth')
    check_classifier(lambda x: theirs(x, mode='tensor'), tmp_path / 'mmpretrain.pth', 1.4)


HUGGING_FACE = """
import sys
from pathlib import Path
import torch
from transformers import (MobileNetV2Config, MobileNetV2ForImageClassification,
                          MobileNetV2ForSemanticSegmentation, MobileNetV2Model)

out = Path(sys.argv[1])
x = torch.load(out / 'picture.pt')
for name, build, options in (
    ('model', MobileNetV2Model, dict(depth_multiplier=0.5, output_stride=16)),
    ('coarse', MobileNetV2Model, dict(depth_multiplier=0.75, finegrained_output=False, tf_padding=False)),
    ('classifier', MobileNetV2ForImageClassification, dict(depth_multiplier=1.4, num_labels=9)),
    ('segmenter', MobileNetV2ForSemanticSegmentation, dict(output_stride=8, num_labels=6)),
):
    net = shuffled(build(MobileNetV2Config(**options)))
    with torch.no_grad():
        y = net(x)
    net.save_pretrained(out / name)
    torch.save(y.last_hidden_state if hasattr(y, 'last_hidden_state') else y.logits, out / f'{name}.pt')
"""


@pytest.fixture(scope='module')
def hugging_face(tmp_path_factory) -> Path:
    """Networks and outputs of transformers, which runs apart: beside it MMDetection 3.3 cannot be imported."""
    version = '5.23.0'
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'mnv2_backbone/tests'
    site = cache / f'transformers-{version}-py{sys.version_info.major}{sys.version_info.minor}'
    if not site.is_dir():
        draft = site.with_name(f'{site.name}.{os.getpid()}')
        install = ['install', '-q', '--retries', '1', '--target', str(draft), f'transformers=={version}']
        done = subprocess.run([sys.executable, '-m', 'pip', *install], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f'transformers cannot be installed: {done.stderr.strip()[-200:]}')
        draft.rename(site)
    out = tmp_path_factory.mktemp('hugging_face')
    torch.save(picture(), out / 'picture.pt')
    helpers = f'{inspect.getsource(shuffle)}\nshuffle = shuffled\n\n{inspect.getsource(shuffled)}'
    script = f'import torch\n\n{helpers}\n{HUGGING_FACE}'
    env = {**os.environ, 'PYTHONPATH': str(site), 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run([sys.executable, '-c', script, out], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(
    ('name', 'options', 'stride'),
    [
        ('model', dict(widen_factor=0.5, finegrain=True), 16),
        ('coarse', dict(widen_factor=0.75), None),
        ('classifier', dict(widen_factor=1.4), None),
        ('segmenter', {}, 8),
    ],
)
def test_hugging_face(hugging_face, name, options, stride):
    expected = torch.load(hugging_face / f'{name}.pt')
    found = read(hugging_face / name / 'model.safetensors')
    assert found.meta['backbone'] == options
    if name == 'classifier':
        ours = Classifier(9, **options).eval().double()
        load_into(ours, found.state_dict)
        run = lambda x: ours(x)['Logits']  # noqa: E731
    elif name == 'segmenter':
        from mmseg.registry import MODELS as MMSEG
        from mmseg.utils import register_all_modules

        register_all_modules()
        backbone = dict(type='mnv2_backbone.MobileNetV2', out_indices='layer_18', output_stride=stride)
        head = dict(type='mnv2_backbone.DeepLabHead', num_classes=6)
        ours = MMSEG.build(dict(type='mnv2_backbone.DeepLab', backbone=backbone, decode_head=head)).eval().double()
        load_backbone(ours.backbone, found.state_dict)
        load_into(ours.decode_head, found.state_dict, prefix='decode_head.')
        run = lambda x: ours.decode_head(ours.backbone(x))  # noqa: E731
    else:
        padding = 'explicit' if name == 'coarse' else 'same'
        ours = MobileNetV2(out_indices='layer_19', output_stride=stride, padding=padding, **options).eval().double()
        load_backbone(ours, found.state_dict)
        run = lambda x: ours(x)[0]  # noqa: E731
    with torch.no_grad():
        assert agree(run(picture()), expected)


def test_what_is_no_mobilenet_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'resnet.pth')
    with pytest.raises(WeightsError, match=r'resnet\.pth.*no MobileNetV2 of torchvision, timm'):
        read(tmp_path / 'resnet.pth')
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / 'v3.pth')
    with pytest.raises(WeightsError, match=r'tensors belong to no layer of this package: .*features'):
        read(tmp_path / 'v3.pth')
    state = torchvision.models.mobilenet_v2(width_mult=0.35).state_dict()
    both = {f'{who}.{key}': value for who in ('teacher', 'student') for key, value in state.items()}
    torch.save(both, tmp_path / 'both.pth')
    with pytest.raises(WeightsError, match="several backbones.*'teacher.'.*'student.'"):
        read(tmp_path / 'both.pth')
    (tmp_path / 'code.pth').write_bytes(b'\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85Rq\x02.')
    with pytest.raises(WeightsError, match='damaged|refused'):
        read(tmp_path / 'code.pth')


@pytest.mark.parametrize(('library', 'last'), [('mmdet', 'layer_19'), ('mmseg', 'layer_18')])
def test_ours_goes_into_a_library_s_network_under_its_names(tmp_path, monkeypatch, library, last):
    norm = dict(type='BN', eps=1e-5)
    net = MobileNetV2(widen_factor=0.5, finegrain=True, out_indices=last, padding='explicit', norm_cfg=norm)
    ours = shuffled(net)
    torch.save({f'backbone.{key}': value for key, value in ours.state_dict().items()}, tmp_path / 'ours.pth')
    line = ['convert_weights.py', str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs.pth'), '--layout', library]
    monkeypatch.setattr(sys, 'argv', line)
    assert runpy.run_path(str(ROOT / 'tools/convert_weights.py'))['main']() == 0
    kind = import_module(f'{library}.models.backbones').MobileNetV2
    theirs = shuffled(kind(widen_factor=0.5, out_indices=(7 if library == 'mmdet' else 6,)))
    theirs.load_state_dict(torch.load(tmp_path / 'theirs.pth')['state_dict'])
    with torch.no_grad():
        (found,) = theirs(picture()) if library == 'mmdet' else (theirs(picture()),)
        assert agree(found, ours(picture())[0])


def test_a_file_of_our_own_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    """A checkpoint of a training says nothing of padding and epsilon; its classes are its own."""
    cfg = load_config(str(ROOT / 'configs/lraspp_mnv2_camvid.py'))
    cfg.model.backbone.update(init_cfg=None, padding='explicit')
    cfg.model.decode_head.num_classes = 21
    init_default_scope('mmseg')
    state = MODELS.build(cfg.model).state_dict()
    names = [f'class {number}' for number in range(21)]
    torch.save(dict(state_dict=state, meta=dict(epoch=3, dataset_meta=dict(classes=names))), tmp_path / 'epoch_3.pth')
    found = read(tmp_path / 'epoch_3.pth')
    assert found.meta['dataset_meta'] == dict(classes=names) and not found.meta['folded']
    assert 'backbone' not in found.meta  # nobody knows
    wanted = {key: value for key, value in state.items() if not key.endswith('num_batches_tracked')}
    assert found.state_dict.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in found.state_dict.items())
