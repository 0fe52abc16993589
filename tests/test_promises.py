"""Options that promise the same values keep them, in outputs, gradients and statistics; so do graphs of any size."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, shuffled
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchvision.models.feature_extraction import create_feature_extractor

pytest.importorskip('mmdet', reason='the models are those of MMDetection and MMSegmentation')
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmseg.structures import SegDataSample

from mnv2_backbone import LRASPP, DeepLabHead, MobileNetV2, feature_info
from mnv2_backbone.errors import WeightsError
from mnv2_backbone.network.fit import load_backbone
from mnv2_backbone.training.options import load_config

CONFIGS = sorted(path.name for path in (ROOT / 'configs').glob('*.py'))
DIFFERENT = {}  # the shipped configs by their network: several train the same one
for name in CONFIGS:
    model = load_config(name).model
    parts = (model.backbone, model.get('decode_head', model.get('bbox_head')))
    kept = [{key: part[key] for key in part if key not in ('norm_cfg', 'init_cfg', 'num_classes')} for part in parts]
    DIFFERENT.setdefault(repr(kept), name)


def step(name: str, **options: object) -> dict[str, torch.Tensor]:
    """Losses, gradients and buffers after one training step of a config's model, and its output afterwards."""
    cfg = load_config(name, {'model.backbone.init_cfg': None, 'model.backbone.widen_factor': 0.35})
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(options)
    if 'decode_head' in cfg.model:
        cfg.model.decode_head.dropout_ratio = 0  # PyTorch draws in the order of memory
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(4):
        meta = dict(img_shape=(64, 96), ori_shape=(64, 96), batch_input_shape=(64, 96), pad_shape=(64, 96))
        sample = (DetDataSample if cfg.default_scope == 'mmdet' else SegDataSample)(metainfo=meta)
        if cfg.default_scope == 'mmdet':
            boxes = HorizontalBoxes(torch.tensor([[5.0, 5, 40, 50], [30, 10, 90, 60]]))
            sample.gt_instances = InstanceData(bboxes=boxes.tensor, labels=torch.tensor([0, 1]))
        else:
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, 64, 96), generator=generator))
        samples.append(sample)
    # in double precision: norms of a few values multiply rounding errors
    x = torch.rand(4, 3, 64, 96, generator=generator, dtype=torch.float64) * 2 - 1
    x.requires_grad_()
    losses = model.double().train()(x, samples, mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    found = {f'loss {key}': value for key, value in losses.items() if 'loss' in key}
    found |= {f'gradient {key}': p.grad for key, p in model.named_parameters() if p.grad is not None}
    found |= {f'buffer {key}': value for key, value in model.named_buffers()}
    with torch.no_grad():
        output = model.eval()(x.detach(), mode='tensor')
    flat = [output] if isinstance(output, torch.Tensor) else [y for part in output for y in part]
    return found | {f'output {i}': y for i, y in enumerate(flat)}


@pytest.mark.parametrize('name', sorted(DIFFERENT.values()))
def test_memory_format_and_checkpointing_change_nothing(name):
    wanted = step(name, channels_last=False)
    for options in (dict(channels_last=True), dict(with_cp=True)):
        found = step(name, **options)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-6), (name, options, key)


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_deformable_convolutions_read_the_right_memory(kind):
    """mmcv's read all memory as contiguous; here they stand inside the network."""
    nets = [MobileNetV2(0.35, conv_cfg=dict(type=kind), channels_last=x, out_indices=(2,)) for x in (False, True)]
    for name, parameter in nets[0].named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if 'offset' in name else 0.1)
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.rand(2, 3, 64, 80)
    (wanted,), (found,) = (net.eval()(x) for net in nets)
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))


# --- graphs


class Whole(torch.nn.Module):
    def __init__(self, head: torch.nn.Module | None, **options: object) -> None:
        super().__init__()
        self.body, self.head = MobileNetV2(0.35, **options), head

    def forward(self, x):
        maps = self.body(x)
        return (self.head(maps),) if self.head else maps


def network(kind: str, padding: str, output_stride: int | None) -> torch.nn.Module:
    points = ('layer_3', 'layer_9')  # few layers, to be faster
    options = dict(out_indices=points, padding=padding, output_stride=output_stride)
    channels = [point.channels for point in feature_info(widen_factor=0.35, **options)]
    head = None
    if kind == 'deeplab':
        head = DeepLabHead(channels, 16, num_classes=3, skip_channels=8, atrous_rates=(2,), norm_cfg=dict(type='BN'))
    elif kind == 'lraspp':
        head = LRASPP(channels, 16, num_classes=3, norm_cfg=dict(type='BN'))
    return shuffled(Whole(head, **options))


KINDS = [('backbone', 'explicit', 8), ('deeplab', 'same', None), ('lraspp', 'same', 8)]
SIZES = [(1, 64, 96), (2, 65, 97), (3, 33, 48), (1, 31, 128), (1, 7, 9), (1, 290, 250)]


def near(found, wanted) -> bool:
    pairs = list(zip(found, wanted, strict=True))
    return all(a.shape == b.shape and (a - b).abs().mean() <= 1e-3 * b.abs().max() for a, b in pairs)


@pytest.mark.parametrize(('kind', 'padding', 'output_stride'), KINDS)
def test_an_exported_graph_is_right_at_every_size_that_it_accepts(kind, padding, output_stride, tmp_path):
    """With PyTorch's own exporters, as a user calls them."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='ONNX files need pip install .[export]')
    net = network(kind, padding, output_stride)
    sample = (torch.rand(2, 3, 64, 96),)
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    program = torch.export.export(net, sample, dynamic_shapes=({**free},))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(program, (), tmp_path / 'new.onnx', dynamo=True, verbose=False)
        names = {0: 'batch', 2: 'height', 3: 'width'}
        old = dict(dynamo=False, dynamic_axes={'x': names}, input_names=['x'])
        torch.onnx.export(net, sample, tmp_path / 'old.onnx', **old)
    accepted = 0
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            wanted = net(x)
            try:
                assert near(program.module()(x), wanted)
                accepted += 1
            except (AssertionError, RuntimeError) as error:
                assert 'Guard failed' in str(error)  # refused
        for name in ('new', 'old'):
            session = onnxruntime.InferenceSession(tmp_path / f'{name}.onnx', providers=['CPUExecutionProvider'])
            found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            assert near([torch.from_numpy(y) for y in found], wanted), (name, x.shape)
    assert accepted >= 3


@pytest.mark.parametrize('name', sorted(DIFFERENT.values()))
def test_fx_traces_every_backbone(name):
    options = dict(load_config(name).model.backbone, init_cfg=None, widen_factor=0.35)
    options.pop('type')
    assert [p.channels for p in feature_info(**options)] == list(MobileNetV2(**options).out_channels)
    net = shuffled(MobileNetV2(**options))
    for training in (True, False):
        graph = torch.fx.symbolic_trace(net.train(training))
        graph.eval(), net.eval()
        x = torch.rand(2, 3, 65, 50)
        assert all(torch.equal(a, b) for a, b in zip(graph(x), net(x), strict=True))


def test_feature_extraction_and_quantization_by_fx():
    net = shuffled(MobileNetV2(0.35, out_indices=('layer_5',)))
    x = torch.rand(2, 3, 65, 50)
    extract = create_feature_extractor(net, {'layer_4.project.bn': 'inner'})
    assert extract(x)['inner'].shape == (2, 8, 17, 13)
    prepared = prepare_fx(net, get_default_qconfig_mapping('x86'), (x,))
    prepared(x)
    (found,), (wanted,) = convert_fx(prepared)(x), net(x)
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.98


# --- options of the backbone


@settings(max_examples=12, deadline=None)
@given(channels=st.sampled_from([1, 2, 4, 6, 16]), padding=st.sampled_from(['same', 'explicit']))
def test_other_images_than_rgb(channels, padding):
    net = MobileNetV2(0.35, in_channels=channels, padding=padding, out_indices=(1,))
    net.init_weights()
    assert net(torch.rand(2, channels, 40, 33))[0].shape == (2, 8, 10, 9)
    with pytest.raises(ValueError, match='in_channels=0: allowed are integers from 1'):
        MobileNetV2(in_channels=0)


def test_pretrained_weights_for_other_images(tmp_path):
    """As timm adapts them: summed up for one channel, else repeated in turn and scaled."""
    rgb = shuffled(MobileNetV2(0.35, out_indices=(2,)))
    torch.save(dict(state_dict={f'backbone.{key}': x for key, x in rgb.state_dict().items()}), tmp_path / 'rgb.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'))
    grey = torch.rand(2, 1, 40, 40)
    for channels in (1, 3, 6, 9):
        net = MobileNetV2(0.35, out_indices=(2,), in_channels=channels, init_cfg=pretrained).eval()
        net.init_weights()
        found, wanted = (x(grey.expand(-1, n, -1, -1)) for x, n in ((net, channels), (rgb, 3)))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    four = MobileNetV2(0.35, out_indices=(2,), in_channels=4, init_cfg=pretrained)
    four.init_weights()
    weight = rgb.layer_1.conv.weight
    torch.testing.assert_close(four.layer_1.conv.weight, torch.cat([weight, weight[:, :1]], 1) * 3 / 4)


def test_a_prefix_is_obeyed(tmp_path):
    first, second = (shuffled(MobileNetV2(0.35, out_indices=(2,)), seed) for seed in (0, 1))
    state = {f'backbone.{key}': x for key, x in first.state_dict().items()}
    state |= {f'teacher.{key}': x for key, x in second.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'two.pth')
    for prefix, wanted in (('teacher', second), ('backbone.', first), (None, first)):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'two.pth'))
        given = init_cfg if prefix is None else dict(init_cfg, prefix=prefix)
        net = MobileNetV2(0.35, out_indices=(2,), init_cfg=given)
        net.init_weights()
        assert torch.equal(net.layer_1.conv.weight, wanted.layer_1.conv.weight)
    with pytest.raises(WeightsError, match='do not fit'):
        MobileNetV2(0.35, init_cfg=dict(init_cfg, prefix='student')).init_weights()
    net = MobileNetV2(0.35, out_indices=(2,), init_cfg=[init_cfg])  # a list, as mmengine allows
    net.init_weights()
    assert torch.equal(net.layer_1.conv.weight, first.layer_1.conv.weight)
    for bad in ([init_cfg, dict(type='Constant', layer='Conv2d', val=1)], dict(init_cfg, prefx='teacher')):
        with pytest.raises(ValueError, match='Pretrained stands alone'):
            MobileNetV2(0.35, init_cfg=bad).init_weights()


def test_weights_with_nan_are_refused():
    net = MobileNetV2(0.35, out_indices=(1,))
    state = {key: x.clone() for key, x in net.state_dict().items()}
    state['layer_1.bn.bias'][3] = float('nan')
    with pytest.raises(WeightsError, match='1 with NaN or infinity: layer_1.bn.bias'):
        load_backbone(net, state)


def test_what_a_file_says_about_its_weights_is_compared_with_the_network(tmp_path):
    meta = dict(source='torch.pth', backbone=dict(padding='explicit', norm_cfg=dict(type='BN', eps=1e-5, momentum=0.1)))
    right = MobileNetV2(**meta['backbone'])
    torch.save(dict(state_dict=right.state_dict(), meta=meta), tmp_path / 'converted.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'converted.pth'))
    MobileNetV2(**meta['backbone'], init_cfg=init_cfg).init_weights()
    for options in (dict(), dict(padding='explicit'), dict(norm_cfg=dict(type='BN', eps=1e-5))):
        with pytest.raises(WeightsError, match=r"torch.pth are for .*'explicit'.*1e-05.* with padding='explicit'"):
            MobileNetV2(**options, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    ('name', 'advice'), [('strides', 'output_stride'), ('dilations', 'output_stride'), ('pretrained', 'init_cfg')]
)
def test_options_of_other_libraries_are_answered_with_ours(name, advice):
    with pytest.raises(TypeError, match=f"no option '{name}'; write {advice}"):
        MobileNetV2(**{name: 1})
    with pytest.raises(TypeError, match="no option 'colour'$"):
        MobileNetV2(colour=np.nan)
