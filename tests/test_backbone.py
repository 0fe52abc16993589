"""The backbone against the original's activations, torchvision, and its own rules."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, shuffled
from mmengine.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from mnv2_backbone import V2_DEF, Classifier, MobileNetV2, make_plan
from mnv2_backbone.network.layers import ReLU6

CASES = [
    'os32_same_65x97',
    'os16_same_65x97',
    'os32_same_64x96',
    'os8_same_64x96',
    'os16_explicit_64x96',
    'os8_explicit_65x97',
]


@pytest.fixture(scope='module')
def converted(real_data, tmp_path_factory):
    """The two reference networks' variables, converted by the tool as a user types it."""
    out = tmp_path_factory.mktemp('slim')
    for name in ('w035', 'w035_classifier'):
        source = real_data / 'reference/slim_activations' / name / 'variables.npz'
        command = [sys.executable, ROOT / 'tools/convert_weights.py', source, out / f'{name}.pth']
        subprocess.run(command, check=True)
    return out


@pytest.mark.parametrize('case', CASES)
def test_activations_equal_slims(real_data, converted, case):
    folder = real_data / 'reference/slim_activations/w035'
    meta = json.loads((folder / 'meta.json').read_text())['cases'][case]
    options = dict(
        widen_factor=0.35,
        output_stride=meta['output_stride'],
        padding='explicit' if meta['use_explicit_padding'] else 'same',
    )
    points = make_plan(out_indices='layer_19', **options).end_points
    assert set(points) == set(meta['end_points'])
    net = MobileNetV2(out_indices=tuple(points), **options).eval()
    state = torch.load(converted / 'w035.pth')['state_dict']
    net.load_state_dict({key.removeprefix('backbone.'): value for key, value in state.items()})

    arrays = np.load(folder / f'{case}.npz')
    with torch.no_grad():
        found = dict(zip(points, net(torch.from_numpy(arrays['input']).permute(0, 3, 1, 2))))
    for name, (_, h, w, c) in meta['end_points'].items():
        assert tuple(found[name].shape) == (1, c, h, w), name
    compared = 0
    for key in arrays.files:
        if key != 'input':
            expected = torch.from_numpy(arrays[key]).permute(0, 3, 1, 2)
            ours = found[key.replace('|', '/')]
            assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max(), key
            compared += 1
    assert compared >= 5


def test_classifier_equals_slims(real_data, converted):
    arrays = np.load(real_data / 'reference/slim_activations/w035_classifier/logits_96x96.npz')
    net = Classifier(num_classes=21, widen_factor=0.35, finegrain=True).eval()
    net.load_state_dict(torch.load(converted / 'w035_classifier.pth')['state_dict'])
    with torch.no_grad():
        found = net(torch.from_numpy(arrays['input']).permute(0, 3, 1, 2))
    for name in ('global_pool', 'Logits', 'Predictions'):
        expected = torch.from_numpy(arrays[name]).reshape(found[name].shape)
        assert (found[name] - expected).abs().max() <= 1e-4 * expected.abs().max(), name


@pytest.mark.parametrize(('padding', 'size', 'width'), [('explicit', (96, 70), 0.35), ('same', (97, 129), 1.0)])
def test_finer_output_strides_agree_where_they_coincide(padding, size, width):
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    common = dict(widen_factor=width, padding=padding, out_indices='layer_19')
    reference = shuffled(MobileNetV2(**common)).double()
    switched = []
    with torch.no_grad():
        (coarse,) = reference(x.double())
        for stride in (1, 2, 4, 8, 16):
            net = MobileNetV2(output_stride=stride, **common).eval().double()
            net.load_state_dict(reference.state_dict())
            if [a.residual for a in net.plan.layers] != [b.residual for b in reference.plan.layers]:
                switched.append(stride)  # the lost stride turned a residual on: another network
                continue
            (fine,) = net(x.double())
            step = 32 // stride
            error = (fine[:, :, ::step, ::step] - coarse).abs().max() / coarse.abs().max()
            assert error <= 1e-5, stride
    assert switched == ([] if width == 1.0 else [1, 2])


@pytest.mark.parametrize(('width', 'madds'), [(0.35, 59), (0.5, 97), (0.75, 209), (1.0, 301), (1.3, 509), (1.4, 582)])
def test_multiply_adds_are_slims(width, madds):
    net = Classifier(widen_factor=width, finegrain=True).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.rand(1, 3, 224, 224))
    assert round(flops.get_total_flops() / 2e6) == madds


def test_forward_equals_torchvisions():
    theirs = shuffled(torchvision.models.mobilenet_v2())
    norm = dict(type='BN', eps=1e-5, momentum=0.1)
    ours = Classifier(1000, padding='explicit', norm_cfg=norm).eval()
    # both state dicts list the same layers in the same order
    values = theirs.state_dict().values()
    ours.load_state_dict({key: value.view(ref.shape) for (key, ref), value in zip(ours.state_dict().items(), values)})
    x = torch.rand(2, 3, 129, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected, found = theirs(x), ours(x)['Logits']
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_every_table_option_builds_and_trains():
    spec = [
        dict(op='conv', out=24, stride=2, kernel=5, act='HSwish'),
        dict(op='bottleneck', out=24, kernel=5, expand=4, split_expansion=2, act='ReLU'),
        dict(op='bottleneck', out=24, residual=False, split_projection=3),
        dict(op='bottleneck', out=48, stride=3, kernel=4, act=None),
        dict(op='conv', out=64, kernel=1, act=dict(type='LeakyReLU', negative_slope=0.1)),
    ]
    names = ('layer_2/expand_part_1_output', 'layer_3/project_part_0_output', 'layer_4', 'layer_5')
    for padding in ('same', 'explicit'):
        net = MobileNetV2(spec=spec, out_indices=names, padding=padding, with_cp=True)
        net.init_weights()
        assert [layer.residual for layer in net.plan.layers] == [False, True, False, False, False]
        outs = net(torch.rand(2, 3, 37, 50))
        shapes = [(48, 19, 25), (8, 19, 25), (48, 7, 9), (64, 7, 9)]
        assert [tuple(x.shape[1:]) for x in outs] == shapes
        sum(x.mean() for x in outs).backward()
        assert all(p.grad is not None for p in net.parameters())
    whole = MobileNetV2(spec=spec, out_indices='layer_2/expansion_output').eval()
    part = MobileNetV2(spec=spec, out_indices=names[0]).eval()
    part.load_state_dict(whole.state_dict())
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(part(x)[0], whole(x)[0][:, 48:])


def test_group_norm_and_other_configs():
    net = MobileNetV2(norm_cfg=dict(type='GN', num_groups=8), act_cfg=dict(type='SiLU'), out_indices=(6,))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert net(torch.rand(1, 3, 64, 64))[0].shape == (1, 320, 2, 2)


def test_initialisation_and_batch_norm_are_slims():
    torch.manual_seed(0)
    net = MobileNetV2()
    net.init_weights()
    weight = net.layer_19.conv.weight
    # a normal of deviation 0.09 cut at two deviations has deviation 0.09 * 0.8796
    assert weight.std().item() == pytest.approx(0.0792, rel=0.01)
    assert weight.abs().max() <= 0.18
    assert {(m.eps, m.momentum) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(0.001, 0.003)}


@pytest.mark.parametrize('stages', [-1, 0, 3, 8])
def test_frozen_stages_freeze_parameters_and_statistics(stages):
    net = MobileNetV2(frozen_stages=stages, out_indices=(7,))
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    (y,) = net(torch.rand(2, 3, 64, 64))
    if y.requires_grad:
        y.mean().backward()
    for layer in net.plan.layers:
        frozen = layer.stage <= stages
        block = getattr(net, layer.name)
        assert all(p.requires_grad != frozen for p in block.parameters())
        moved = [
            not torch.equal(value, before[f'{layer.name}.{key}'])
            for key, value in block.state_dict().items()
            if 'running' in key
        ]
        assert any(moved) != frozen
    assert (stages == 8) == (not y.requires_grad)


def test_frozen_layers_compute_the_same_in_training():
    net = MobileNetV2(frozen_stages=8, out_indices=('layer_1', 'layer_4/depthwise_output', 7))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                torch.nn.init.uniform_(tensor, low, low + 1)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = net.eval()(x), net.train()(x)
        again = net.eval()(x)
    for tensors in zip(expected, found, again):
        scale = tensors[0].abs().max().item()
        torch.testing.assert_close(tensors[1], tensors[0], rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(tensors[2], tensors[0], rtol=0, atol=0)


def test_norm_eval_keeps_statistics():
    net = MobileNetV2(norm_eval=True, out_indices=(2,)).train()
    assert net.training and not any(m.training for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_relu6_has_torchs_values_and_gradients_without_a_copy(dtype, layout):
    x = (torch.randn(2, 16, 9, 7) * 5).to(dtype).to(memory_format=layout)
    x[0, :4, 0, 0] = torch.tensor([0.0, 6.0, -0.0, float('nan')])
    kept, results = [], []
    for relu6 in (ReLU6(inplace=True), torch.nn.ReLU6(inplace=True)):
        source = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
            before = source * 1
            y = relu6(before)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append((y.detach(), source.grad))
        assert y.data_ptr() == before.data_ptr()
        assert (kept[-1] == y.data_ptr()) == isinstance(relu6, ReLU6)  # the result, where torch keeps a copy
    for ours, theirs in zip(*results):
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
    assert {type(module) for module in MobileNetV2().modules() if isinstance(module, torch.nn.ReLU6)} == {ReLU6}


def test_bfloat16_training_leaves_strided_depthwise_convolutions_in_float32():
    net = shuffled(MobileNetV2(widen_factor=0.35, out_indices='layer_8')).train()
    types = {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, args, out, name=name: types.update({name: out.dtype}))
    x = torch.rand(4, 3, 64, 64) * 2 - 1

    def gradients(enabled):
        net.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            y = net(x)[0]
        y.float().square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])

    full, half = gradients(False), gradients(True)
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.97
    exact = {name for name, dtype in types.items() if dtype == torch.float32}
    assert exact == {f'layer_{i}.depthwise.conv' for i in (3, 5, 8)} and len(types) > len(exact)


def test_wrong_frozen_stages_is_refused():
    with pytest.raises(ValueError, match='frozen_stages=9.*-1.*8'):
        MobileNetV2(frozen_stages=9)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_type_works_in_each_library_without_an_import(library):
    if library == 'mmpretrain':
        pytest.importorskip('mmpretrain')
    code = f"""
from {library}.registry import MODELS
from {library}.utils import register_all_modules
register_all_modules()
net = MODELS.build(dict(type='mnv2_backbone.MobileNetV2', out_indices=(1, 2, 4, 6)))
other = MODELS.build(dict(type='MobileNetV2'))
assert type(net).__module__ == 'mnv2_backbone.network.backbone'
assert type(other).__module__.startswith('{library}.')
print(net.out_channels)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith('(24, 32, 96, 320)'), done.stderr


def test_classifier_head_serves_mmpretrain():
    mmpretrain = pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    mmpretrain.utils.register_all_modules()
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mnv2_backbone.MobileNetV2', widen_factor=0.35, out_indices=(7,)),
            head=dict(type='mnv2_backbone.SlimClsHead', num_classes=5, in_channels=448),
        )
    )
    samples = [DataSample().set_gt_label(i) for i in (1, 4)]
    x = torch.rand(2, 3, 64, 64)
    loss = model(x, samples, mode='loss')['loss']
    loss.backward()
    assert loss > 0 and model.head.logits.weight.grad.abs().sum() > 0
    predicted = model.eval()(x, samples, mode='predict')
    assert predicted[0].pred_score.sum().item() == pytest.approx(1, abs=1e-5)
    assert len(model(x, None, mode='predict')) == 2

    # Mixup and CutMix write soft labels beside the hard ones
    soft = torch.tensor([[0.3, 0.7, 0, 0, 0], [0, 0, 0.5, 0.5, 0]])
    mixed = [DataSample().set_gt_label(0).set_gt_score(score) for score in soft]
    with torch.no_grad():
        logits = model.head(model.backbone(x))
        torch.testing.assert_close(model(x, mixed, mode='loss')['loss'], -(soft * logits.log_softmax(1)).sum(1).mean())


def test_no_classes_give_pooled_features():
    out = Classifier(num_classes=0, widen_factor=0.35).eval()(torch.rand(1, 3, 64, 64))
    assert {key: tuple(value.shape) for key, value in out.items()} == {'global_pool': (1, 448, 1, 1)}
    assert len(V2_DEF) == 19
