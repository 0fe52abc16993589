"""Folding: norms and the input's normalisation go into the convolutions, padding into their arguments."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn

from ..layers import ConvNormAct, same_padding

M = TypeVar('M', bound=nn.Module)


def fold_norms(model: M) -> M:
    """A copy for inference: in evaluation mode, batch norms folded into their convolutions, channels last.

    Args:
        model: Any module; norms other than batch norm stay.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model = fuse_conv_bn(model).requires_grad_(False)
    result: M = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return result


def fold_input(conv: nn.Conv2d, mean: Tensor, std: Tensor) -> None:
    """Makes a first convolution take raw values x instead of (x - mean) / std. It must not pad by itself.

    Args:
        conv: Changed in place; gets a bias where it has none.
        mean, std: (channels,).
    """
    weight = conv.weight / std.view(1, -1, 1, 1)
    bias = -(weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(bias if conv.bias is None else conv.bias + bias, requires_grad=False)


def settle_padding(model: nn.Module, sample: Tensor) -> None:
    """Lets convolutions pad by themselves where SAME's padding for this size of input can be had so.

    What is even becomes the convolution's own padding. What has one pixel more at the end, as SAME at stride 2 on
    even sizes, becomes even by one more tap of zeros at the kernel's beginning. (A separate padding copies the
    whole map.) The model then gives wrong results for other sizes.

    Args:
        model: Changed in place.
        sample: An input of the size to settle for.
    """
    sizes: dict[ConvNormAct, tuple[int, int]] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: sizes.update({module: tuple(args[0].shape[2:])}))
        for module in model.modules()
        if isinstance(module, ConvNormAct) and module.pads
    ]
    with torch.no_grad():
        model(sample)
    for handle in handles:
        handle.remove()
    for module, (height, width) in sizes.items():
        kernel, stride, rate = module.pad_args
        sides = [same_padding(size, kernel, stride, rate) for size in (height, width)]
        if rate > 1 and any(before != after for before, after in sides):
            continue
        conv = module.conv
        extra = [after - before for before, after in sides]
        weight = F.pad(conv.weight, (extra[1], 0, extra[0], 0)).contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.kernel_size = tuple(weight.shape[2:])
        conv.padding = tuple(after for _, after in sides)
        module.pads = False
