"""A fast float32 gradient for atrous depthwise convolutions on a CPU: oneDNN takes ten times as long as at rate 1."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def speed_up_gradient(conv: nn.Module) -> None:
    """Gives a convolution, where it is atrous and depthwise, the fast gradient.

    What it computes stays the same, also its gradient up to rounding. It stays a plain ``nn.Conv2d``: its hooks,
    ``torch.fx`` and mmcv, which computes the norm inside it, find what they know.
    """
    if type(conv) is nn.Conv2d and conv.dilation != (1, 1):
        vars(conv)['_conv_forward'] = partial(_conv_forward, conv)


def _conv_forward(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As ``nn.Conv2d._conv_forward``, to which it leaves everything but the training of suitable ones on a CPU."""
    trains = conv.training and torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    # in bfloat16 the many small maps would round the gradient of the weights more coarsely than PyTorch does
    exact = not torch.is_autocast_enabled('cpu') and x.dtype == weight.dtype in (torch.float32, torch.float64)
    if not trains or not exact or x.device.type != 'cpu' or torch.compiler.is_compiling() or not _suits(conv):
        return nn.Conv2d._conv_forward(conv, x, weight, bias)
    return _AtrousDepthwise.apply(x, weight, conv.dilation[0])


def _suits(conv: nn.Conv2d) -> bool:
    """Whether it is atrous, depthwise and keeps the size of the map. Asked in every pass: options may be changed."""
    rate, kernel = conv.dilation[0], conv.kernel_size[0]
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and conv.bias is None
    square = conv.dilation == (rate, rate) and conv.kernel_size == (kernel, kernel) and conv.padding_mode == 'zeros'
    same = conv.stride == (1, 1) and kernel % 2 == 1 and conv.padding == (rate * (kernel // 2),) * 2
    return rate > 1 and depthwise and square and same


class _AtrousDepthwise(torch.autograd.Function):
    """An atrous depthwise convolution at stride 1, padded to the size of its input."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, rate: int) -> Tensor:
        return _convolve(x, weight, rate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:  # as torch.func asks for
        x, weight, ctx.rate = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, weight.flip(2, 3), ctx.rate)
        if ctx.needs_input_grad[1]:
            pad, mask = weight.shape[2] // 2, [False, True, False]
            grids = _grids(grad, ctx.rate), _grids(x, ctx.rate)
            options = [1, 1], [pad, pad], [1, 1], False, [0, 0], len(weight), mask
            grad_weight = torch.ops.aten.convolution_backward(*grids, weight, None, *options)[1]
        return grad_x, grad_weight, None


def _convolve(x: Tensor, weight: Tensor, rate: int) -> Tensor:
    return F.conv2d(x, weight, padding=rate * (weight.shape[2] // 2), dilation=rate, groups=len(weight))


def _grids(x: Tensor, rate: int) -> Tensor:
    """(N, C, H, W) to (N * rate², C, ⌈H / rate⌉, ⌈W / rate⌉): the maps on which the convolution has the rate 1."""
    x = F.pad(x, (0, -x.shape[3] % rate, 0, -x.shape[2] % rate))
    x = x.unflatten(3, (-1, rate)).unflatten(2, (-1, rate))
    return x.permute(0, 3, 5, 2, 4, 1).flatten(0, 2).permute(0, 3, 1, 2)
