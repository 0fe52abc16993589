"""The fast gradient of atrous depthwise convolutions: torch's values and gradients, whatever is done to the module."""

import copy
import pickle
import time
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from mnv2_backbone import MobileNetV2
from mnv2_backbone.network.atrous import speed_up_gradient
from mnv2_backbone.network.layers import ConvNormAct
from mnv2_backbone.training.cpu import keep_freed_memory


def depthwise(channels: int, kernel: int = 3, rate: int = 2) -> nn.Conv2d:
    return ConvNormAct(channels, channels, kernel, rate=rate, groups=channels, bias=False).conv


def torchs(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with the gradient torch has for it."""
    options = dict(padding=conv.padding, dilation=conv.dilation, groups=conv.groups, bias=False)
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **options)
    plain.load_state_dict(conv.state_dict())
    return plain


def is_fast(y: torch.Tensor) -> bool:
    return 'AtrousDepthwise' in y.grad_fn.name()


def gradients(conv: nn.Conv2d, x: torch.Tensor, weighting: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = conv(x)
    return [y.detach(), *torch.autograd.grad((y * weighting).sum(), (x, conv.weight))]


@settings(max_examples=60, deadline=None)
@given(
    rate=st.integers(2, 5),
    kernel=st.sampled_from([3, 5]),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_values_and_gradients_are_torchs(rate, kernel, size, layout, dtype):
    """Against torch in float64."""
    conv = depthwise(6, kernel, rate).to(dtype)
    x, weighting = (torch.randn(2, 6, *size).to(memory_format=layout) for _ in range(2))
    wanted = gradients(torchs(conv).double(), x.double(), weighting.double())
    assert is_fast(conv(x.to(dtype)))
    found = gradients(conv, x.to(dtype), weighting.to(dtype))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for ours, theirs in zip(found, wanted, strict=True):
        scale = max(theirs.abs().max().item(), 1.0)
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize('autocast', [True, False])
def test_bfloat16_keeps_torchs_gradient(autocast):
    conv = depthwise(6).to(torch.float32 if autocast else torch.bfloat16)
    x, weighting = torch.randn(2, 6, 9, 7).to(conv.weight.dtype), torch.randn(2, 6, 9, 7).bfloat16()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found, wanted = (gradients(module, x, weighting) for module in (conv, torchs(conv).to(x.dtype)))
    assert found[0].dtype == torch.bfloat16
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_second_derivatives():
    conv = depthwise(2).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    call = lambda x, weight: torch.func.functional_call(conv, dict(weight=weight), (x,))  # noqa: E731
    assert is_fast(call(x, conv.weight))
    assert torch.autograd.gradgradcheck(call, (x, conv.weight))


def test_gradients_by_torch_func():
    conv, x = depthwise(4), torch.randn(1, 4, 9, 9)
    call = lambda x: conv(x).square().sum()  # noqa: E731
    wanted = torch.func.grad(lambda x: torchs(conv)(x).square().sum())(x)
    torch.testing.assert_close(torch.func.grad(call)(x), wanted)
    conv.eval()  # torch's own gradient, which has forward mode too
    assert not is_fast(conv(x))
    torch.testing.assert_close(torch.func.jacfwd(call)(x), wanted)


def test_only_what_needs_a_gradient_is_computed():
    conv, x = depthwise(4), torch.randn(1, 4, 9, 9)
    conv(x).sum().backward()  # the first layer of a network: no gradient of the images
    conv.requires_grad_(False)
    assert conv(x).grad_fn is None and is_fast(conv(x.requires_grad_()))
    conv(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert torch.equal(conv(x), torchs(conv)(x))


def pickled(conv: nn.Conv2d) -> nn.Conv2d:
    return pickle.loads(pickle.dumps(conv))


@pytest.mark.parametrize('copied', [copy.deepcopy, pickled])
def test_copies_are_their_own(copied):
    conv, x = depthwise(4), torch.randn(1, 4, 9, 9)
    twin = copied(conv)
    assert torch.equal(twin(x), conv(x)) and is_fast(twin(x))
    nn.init.zeros_(twin.weight)
    assert twin(x).abs().max() == 0 and conv(x).abs().max() > 0


@settings(max_examples=40, deadline=None)
@given(
    options=st.fixed_dictionaries(
        {},
        optional=dict(
            stride=st.sampled_from([(1, 2), (2, 2)]),
            padding=st.sampled_from([(0, 0), (2, 1), (4, 4)]),
            dilation=st.sampled_from([(1, 1), (2, 1), (3, 3)]),
            groups=st.sampled_from([1, 2]),
            bias=st.just(True),
            padding_mode=st.sampled_from(['circular', 'replicate']),
            kernel_size=st.sampled_from([(3, 1), (2, 2)]),
            out_channels=st.just(8),
        ),
    )
)
def test_others_keep_torchs_gradient(options):
    usual = dict(out_channels=4, kernel_size=(3, 3), padding=(2, 2), dilation=(2, 2), groups=4, bias=False)
    plain = nn.Conv2d(4, **{**usual, **options})
    conv = copy.deepcopy(plain)
    speed_up_gradient(conv)
    x = torch.randn(1, 4, 9, 8)
    y = conv(x)
    assert torch.equal(y, plain(x)) and is_fast(y) == (not options)


def test_options_may_be_changed_later():
    conv, x = depthwise(4), torch.randn(1, 4, 9, 9)
    conv.padding = (0, 0)
    assert conv(x).shape == (1, 4, 5, 5) and not is_fast(conv(x))
    conv.padding = conv.dilation = (3, 3)
    assert torch.equal(conv(x), torchs(conv)(x)) and is_fast(conv(x))


def test_hooks_and_pruning_apply():
    conv, x = depthwise(4), torch.randn(1, 4, 9, 9)
    prune.l1_unstructured(conv, 'weight', amount=0.5)
    for _ in range(2):  # the mask is applied anew in every step
        assert is_fast(conv(x))
        conv(x).square().sum().backward()
        assert (conv.weight_orig.grad[conv.weight_mask == 0] == 0).all()
        with torch.no_grad():
            conv.weight_orig.mul_(2)
    assert torch.equal(conv(x), nn.functional.conv2d(x, conv.weight_orig * conv.weight_mask, None, 1, 2, 2, 4))


def test_a_network_trains_as_with_torchs_gradient(monkeypatch):
    net = MobileNetV2(widen_factor=0.35, output_stride=8, out_indices='layer_18').train()
    x = torch.randn(2, 3, 65, 97)

    def step() -> torch.Tensor:
        net.zero_grad()
        net(x)[0].square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).double()

    ours = step()
    fast = [module for module in net.modules() if '_conv_forward' in vars(module)]
    assert len(fast) == 10  # the blocks after the two strides that became rates
    for conv in fast:
        monkeypatch.setattr(conv, '_conv_forward', partial(nn.Conv2d._conv_forward, conv))
    theirs = step()
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_the_gradient_is_faster_than_torchs():
    """Forward and backward pass took a third of the time; the test leaves room for other CPUs."""
    keep_freed_memory()  # as training does
    conv = depthwise(384).to(memory_format=torch.channels_last)
    x = torch.randn(4, 384, 33, 33).to(memory_format=torch.channels_last)
    weighting, times = torch.randn_like(x), {}
    for _ in range(5):
        for name, module in dict(ours=conv, torchs=torchs(conv)).items():
            start = time.perf_counter()
            gradients(module, x, weighting)
            times.setdefault(name, []).append(time.perf_counter() - start)
    assert min(times['ours']) < 0.6 * min(times['torchs']), times
