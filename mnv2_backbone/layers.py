"""The building blocks: convolution with TensorFlow's padding, inverted residual, BN across processes, ReLU6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch import distributed as dist

from .registry import MODELS
from .spec import ActCfg, Layer

Cfg = dict[str, Any]


def same_padding(size: int, kernel: int, stride: int, rate: int) -> tuple[int, int]:
    """What TensorFlow's SAME pads one side of a picture with, before and after; the odd pixel comes after.

    Works with the symbolic sizes of an exported graph too.
    """
    total = (-(-size // stride) - 1) * stride + (kernel - 1) * rate + 1 - size
    total = max(total, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: int, stride: int, rate: int) -> Tensor:
    """Pads as TensorFlow's SAME: output size ceil(size / stride), the odd pixel at the end.

    Args:
        x: (N, C, H, W).
        kernel, stride, rate: Of the convolution that follows.

    Returns:
        (N, C, H + p, W + q).
    """
    height, width = x.shape[2:]
    return F.pad(x, [*same_padding(width, kernel, stride, rate), *same_padding(height, kernel, stride, rate)])


class ConvNormAct(ConvModule):
    """Convolution, norm and activation, padded to an output of size ceil(size / stride).

    mmcv's ``ConvModule`` with slim's two ways of padding. Where SAME is even anyway (stride 1, odd
    kernel) the convolution pads by itself, whatever ``conv_cfg`` it comes from.

    Args:
        in_channels, out_channels, kernel, stride, rate, groups: Of the convolution.
        padding: ``'same'`` or ``'explicit'``.
        conv_cfg, norm_cfg, act_cfg: As everywhere in mm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        rate: int = 1,
        groups: int = 1,
        *,
        padding: str = 'same',
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = None,
    ) -> None:
        reach = (kernel - 1) * rate
        # slim pads the rest (total - total // 2) at the end, which a convolution cannot do by itself
        self.pads = reach % 2 == 1 or (padding == 'same' and stride > 1)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=0 if self.pads else reach // 2,
            dilation=rate,
            groups=groups,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        # oneDNN has no fast gradient of these in bfloat16: they take a tenth of the time in float32
        self.steps_apart = groups == in_channels > 1 and stride > 1
        # with stride 1 SAME's total is the reach: the explicit padding of any stride
        self.pad_args = (kernel, stride if padding == 'same' else 1, rate)

    def init_weights(self) -> None:
        """Leaves the weights to the owner's ``init_cfg``, which mmengine applies before it comes here."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        x = pad_same(x, *self.pad_args) if self.pads else x
        if self.steps_apart and self.training and x.device.type == 'cpu' and torch.is_autocast_enabled('cpu'):
            with torch.autocast('cpu', enabled=False):
                return super().forward(x.float(), activate, norm)
        return super().forward(x, activate, norm)


class SplitConv(nn.ModuleList):
    """A 1x1 convolution in uneven groups of channels, each with its own norm (slim's ``split_conv``)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        pieces = x.split([part.in_channels for part in self], dim=1)
        return torch.cat([part(piece) for part, piece in zip(self, pieces)], dim=1)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection (slim's ``expanded_conv``).

    Args:
        layer: What to build, from a plan.
        padding: ``'same'`` or ``'explicit'``.
        conv_cfg, norm_cfg: As everywhere in mm.
        act_cfg: Activation after the expansion and the depthwise convolution.
    """

    def __init__(
        self,
        layer: Layer,
        padding: str,
        conv_cfg: Cfg | None,
        norm_cfg: Cfg | None,
        act_cfg: Cfg | None,
    ) -> None:
        super().__init__()
        self.layer = layer
        build: Cfg = dict(padding=padding, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        if 'expansion' in layer.steps:
            self.expand = _pointwise(layer.expand_parts, dict(build, act_cfg=act_cfg))
        if 'depthwise' in layer.steps:
            inner = layer.expanded_channels
            self.depthwise = ConvNormAct(
                inner, inner, layer.kernel, layer.stride, layer.rate, inner, act_cfg=act_cfg, **build
            )
        if 'projection' in layer.steps:
            self.project = _pointwise(layer.project_parts, build)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the block.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            The tensor after each of ``layer.steps``.
        """
        steps, y = {}, x
        for step in self.layer.steps:
            if step == 'expansion':
                y = self.expand(y)
            elif step == 'depthwise':
                y = self.depthwise(y)
            elif step == 'projection':
                y = self.project(y)
            elif self.layer.residual:
                y = x + y
            steps[step] = y
        return steps


def _pointwise(parts: tuple[tuple[int, int], ...], build: Cfg) -> nn.Module:
    convs = [ConvNormAct(inputs, outputs, **build) for inputs, outputs in parts]
    return convs[0] if len(convs) == 1 else SplitConv(convs)


def resolve_act(act: ActCfg, default: Cfg | None) -> Cfg | None:
    """The activation config of a table row: the network's own, another by name or config, or none."""
    if act == 'default':
        return default
    if isinstance(act, str):
        return dict(type=act)
    return dict(act) if isinstance(act, Mapping) else None


class _ClampInPlace(torch.autograd.Function):
    """Clamps to 0 to 6 in place, and remembers the result, which the next convolution keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.clamp_(0, 6))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0.0, 6.0)  # y is strictly inside exactly where x was


@MODELS.register_module()
class ReLU6(nn.ReLU6):
    """torch's ReLU6 with the same values and gradients; in place it trains faster and in less memory.

    torch's own copies its input before it overwrites it, for a gradient that the output gives as well.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        records = self.inplace and self.training and torch.is_grad_enabled() and x.requires_grad
        if records and not torch.compiler.is_compiling():
            return _ClampInPlace.apply(x)
        return super().forward(x)


@MODELS.register_module()
class SyncBN(nn.BatchNorm2d):
    """Batch norm over the pictures of all processes, on CPU as on GPU; plain batch norm in one process.

    torch's own does not work on CPUs, not even inside DistributedDataParallel. With this one, N processes
    compute what one process computes on the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        across = self.training and dist.is_available() and dist.is_initialized()
        if not across or dist.get_world_size() == 1:
            return super().forward(x)
        x, dtype = x.float(), x.dtype
        axes = [0, *range(2, x.dim())]
        count = x.new_tensor(x.numel() / x.shape[1])
        sums = _all_reduce(torch.cat([x.sum(axes), count[None]]))
        total = sums[-1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = x - (sums[:-1] / total).view(shape)
        var = _all_reduce(centred.square().sum(axes)) / total
        if self.track_running_stats:
            self._update_running_stats(sums[:-1] / total, var, total)
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        y = y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y
        return y.to(dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * total / (total - 1).clamp(min=1), momentum)


def _all_reduce(x: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce  # differentiable; not there on every platform

    return all_reduce(x)
