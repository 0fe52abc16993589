"""The plan's costs against counted networks, and ``tools/describe.py`` as a user types it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from costs import layer_costs
from describe import input_size
from torch.utils.flop_counter import FlopCounterMode

from mnv2_backbone import MobileNetV2, make_plan
from mnv2_backbone.errors import UserError
from mnv2_backbone.training.options import load_config


@pytest.mark.parametrize(
    'options',
    [
        dict(out_indices='layer_19'),
        dict(out_indices=('layer_4', 'layer_15/expansion_output'), output_stride=8, widen_factor=0.5),
        dict(out_indices='layer_7/depthwise_output', widen_factor=1.4),
    ],
)
def test_costs_are_those_of_the_network_built(options):
    net = MobileNetV2(**options).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.rand(1, 3, 97, 130))
    costs = list(layer_costs(make_plan(**options), 97, 130))
    assert sum(cost.params for cost in costs) == sum(p.numel() for p in net.parameters())
    assert 2 * sum(cost.madds for cost in costs) == flops.get_total_flops()


@pytest.mark.parametrize('output_stride', [None, 8])
def test_receptive_field_is_where_the_gradient_reaches(output_stride):
    options = dict(out_indices='layer_8', widen_factor=0.35, output_stride=output_stride)
    net = MobileNetV2(**options, act_cfg=None, padding='explicit').eval().double()
    for p in net.parameters():
        torch.nn.init.uniform_(p, 0.5, 1)  # nothing cancels
    x = torch.rand(1, 3, 255, 255).double().requires_grad_()
    (y,) = net(x)
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    reached = x.grad.abs().sum((0, 1)).nonzero()
    extent = (reached.max(0).values - reached.min(0).values + 1).tolist()
    assert extent == [list(layer_costs(net.plan, 255, 255))[-1].receptive_field] * 2


def test_describe_prints_plan_totals_and_comparison():
    command = [sys.executable, 'tools/describe.py', 'configs/ssdlite_mnv2_coco.py', '--compare']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ('layer_15/expansion_output', '4.337', '788.8', '300.8', 'ShuffleNet (x2)', '1600/156'):
        assert words in done.stdout, words


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*_mnv2_*.py')), ids=lambda path: path.stem)
def test_networks_are_described_at_the_size_that_they_are_tested_at(path):
    pytest.importorskip('mmdet', reason='the configs are those of MMDetection and MMSegmentation')
    from mnv2_backbone.deployment.recipe import Recipe, padding_of

    cfg = load_config(str(path))
    try:
        size = Recipe.from_config(cfg).size
    except ValueError as error:
        assert 'keep_ratio' in str(error)
    else:
        padded = padding_of(cfg).get('size')  # not the size of the crops in training
        assert size is padded is None or input_size(cfg, path.name) == tuple(size or padded)
    cfg.model.data_preprocessor.pop('size', None)
    cfg.model.data_preprocessor.pop('test_cfg', None)
    cfg.test_dataloader.dataset = dict(pipeline=[])
    with pytest.raises(UserError, match='name a size with --size'):
        input_size(cfg, path.name)


def test_describe_refuses_a_wrong_option():
    line = ['tools/describe.py', 'configs/ssdlite_mnv2_coco.py', '--cfg-options', 'model.backbone.output_stride=6']
    done = subprocess.run([sys.executable, *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.match('error: .*output_stride=6', done.stderr)
