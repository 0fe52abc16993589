"""Folding: norms and the input's normalization go into the convolutions, padding into their arguments."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import Tensor, nn

from ..network.layers import ConvNormAct, SamePadding, is_plain

M = TypeVar('M', bound=nn.Module)


class Clamp6(nn.Module):
    """ReLU6 as a single clamp; exporters spend seconds decomposing PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x.clamp(0, 6)


def fold_norms(model: M) -> M:
    """A copy for inference on a CPU: in evaluation mode, batch norms folded into their convolutions, channels last."""
    model = copy.deepcopy(model).cpu().eval()
    for module in list(model.modules()):
        fold: Any = getattr(module, 'fold_levels', None)
        if fold:
            fold()
    for module in list(model.modules()):
        # Elsewhere a norm that is registered after a convolution may be computed in another place.
        if isinstance(module, ConvModule) and module.order[:2] == ('conv', 'norm') and is_plain(module.conv):
            fuse_conv_bn(module)
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, Clamp6())
        if is_plain(module):
            module.to(memory_format=torch.channels_last)
    return model.requires_grad_(False)


def fold_input(conv: nn.Conv2d, mean: Tensor, std: Tensor) -> None:
    """Makes a first convolution, which must not pad, take raw values x instead of (x - mean) / std; in place.

    ``mean`` and ``std`` have one value for each channel.
    """
    weight = conv.weight / std.view(1, -1, 1, 1)
    bias = -(weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(bias if conv.bias is None else conv.bias + bias, requires_grad=False)


def keep_outputs(conv: nn.Conv2d, group: int, kept: Sequence[int]) -> None:
    """Keeps some of each group of a convolution's outputs, in this order; in place."""
    for name in ('weight', 'bias'):
        chosen = getattr(conv, name).unflatten(0, (-1, group))[:, list(kept)].flatten(0, 1)
        setattr(conv, name, nn.Parameter(chosen, requires_grad=False))
    conv.out_channels = len(conv.weight)


def settle_padding(model: nn.Module, sample: Tensor) -> None:
    """Replaces SAME padding by the convolutions' own, for inputs of the size of ``sample`` only; in place.

    Even padding becomes the convolution's own. The extra pixel at the end that SAME needs at stride 2 on even sizes is
    balanced by a row and a column of zeros at the start of the kernel. (A separate padding copies the whole map.)
    """
    sizes: dict[ConvNormAct, tuple[int, int]] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: sizes.update({module: tuple(args[0].shape[2:])}))
        for module in model.modules()
        if isinstance(module, ConvNormAct) and isinstance(module.pad, SamePadding)
    ]
    with torch.no_grad():
        model(sample)
    for handle in handles:
        handle.remove()
    for module, size in sizes.items():
        assert isinstance(module.pad, SamePadding)
        sides = [module.pad.sides(length) for length in size]
        conv = module.conv
        if not is_plain(conv) or (module.pad.rate > 1 and any(before != after for before, after in sides)):
            continue
        extra = [after - before for before, after in sides]
        weight = F.pad(conv.weight, (extra[1], 0, extra[0], 0)).contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.kernel_size = tuple(weight.shape[2:])
        conv.padding = tuple(after for _, after in sides)
        module.pad = nn.Identity()
