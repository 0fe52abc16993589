"""The building blocks: convolution with TensorFlow's padding, inverted residual, ReLU6, batch norm across processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.conv_module import efficient_conv_bn_eval_forward
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import MODELS
from ..spec import ActCfg, Convolution, Layer
from .atrous import speed_up_gradient

Cfg = dict[str, Any]
InitCfg = Cfg | Sequence[Cfg] | None


def as_init_cfg(init_cfg: InitCfg) -> Cfg | list[Cfg] | None:
    """An ``init_cfg`` as mmengine takes it: several in a list, not in a tuple."""
    return init_cfg if init_cfg is None or isinstance(init_cfg, dict) else list(init_cfg)


def at_least_0(number: int) -> int:
    """``max(number, 0)`` in arithmetic, which tracers and exporters follow for every size."""
    return (number + abs(number)) // 2


class SamePadding(nn.Module):
    """Pads for a convolution as TensorFlow's SAME: output size ceil(size / stride), the odd pixel at the end."""

    def __init__(self, kernel: int, stride: int, rate: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.rate = kernel, stride, rate

    def sides(self, size: int) -> tuple[int, int]:
        """Pixels before and after one side of a map; ``size`` may be symbolic, as in an exported graph."""
        reach = (self.kernel - 1) * self.rate + 1
        total = ((size + self.stride - 1) // self.stride - 1) * self.stride + reach - size
        if reach < self.stride:
            total = at_least_0(total)
        return total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + p, W + q)."""
        return pad_same(x, self)


@torch.fx.wrap
def pad_same(x: Tensor, padding: SamePadding) -> Tensor:
    """Pads by ``padding.sides``; one step to ``torch.fx``, which does not trace sizes."""
    return F.pad(x, [*padding.sides(x.shape[3]), *padding.sides(x.shape[2])])


def is_plain(conv: nn.Module) -> bool:
    """Whether a convolution uses its weights as they are, so that scaled and padded ones can replace them."""
    return type(conv).forward is nn.Conv2d.forward


class ConvNormAct(ConvModule):
    """Convolution, norm and activation, padded to an output of size ceil(size / stride).

    mmcv's ``ConvModule`` with slim's two ways of padding, ``'same'`` or ``'explicit'``. Where the padding is even
    (stride 1, odd kernel) the convolution pads by itself, whatever ``conv_cfg`` it comes from; elsewhere the module
    ``pad`` does.
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
        bias: bool | str = 'auto',
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = None,
    ) -> None:
        reach = (kernel - 1) * rate
        # slim pads the rest (total - total // 2) at the end, which a convolution cannot do by itself
        uneven = reach % 2 == 1 or (padding == 'same' and stride > 1)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=0 if uneven else reach // 2,
            dilation=rate,
            groups=groups,
            bias=bias,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        speed_up_gradient(self.conv)
        # at stride 1 SAME pads the whole reach of the kernel, as 'explicit' does at any stride
        same = SamePadding(kernel, stride if padding == 'same' else 1, rate)
        self.pad: nn.Module = same if uneven else nn.Identity()
        # oneDNN has no fast gradient of these in bfloat16: they take a tenth of the time in float32
        self.trains_in_float32 = groups == in_channels > 1 and stride > 1

        #: Whether the norm, which then must stay in evaluation mode, is computed inside the convolution: frozen layers
        #: train faster with it.
        self.folds_norm = False

    @property
    def can_fold_norm(self) -> bool:
        """Whether there is a norm with running statistics, and a convolution that can take it up."""
        norm = self.norm if self.with_norm else None
        return isinstance(norm, _BatchNorm) and norm.track_running_stats and is_plain(self.conv)

    def init_weights(self) -> None:
        """Leaves the weights to the owner's ``init_cfg``, which mmengine has applied before it calls this."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        x = self.pad(x)
        if self.folds_norm and norm and isinstance(x, Tensor):  # not while torch.fx traces, which follows modules only
            x = efficient_conv_bn_eval_forward(self.norm, self.conv, x)
            return self.activate(x) if activate and self.with_activation else x
        if not isinstance(self.conv, nn.Conv2d):  # mmcv's deformable ones read all memory as contiguous
            x = x.contiguous()
        if self.trains_in_float32 and self.training and torch.is_autocast_enabled('cpu') and x.device.type == 'cpu':
            with torch.autocast('cpu', enabled=False):
                return super().forward(x.float(), activate, norm)
        return super().forward(x, activate, norm)


def build_convolution(conv: Convolution, **options: Any) -> ConvNormAct:
    """A convolution of a plan with its norm and activation; options as for :class:`ConvNormAct`."""
    spatial = (conv.kernel, conv.stride, conv.rate, conv.groups)
    return ConvNormAct(conv.in_channels, conv.out_channels, *spatial, **options)


class SplitConv(nn.ModuleList):
    """A 1x1 convolution in uneven groups of channels, each with its own norm (slim's ``split_conv``)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        pieces = x.split([part.in_channels for part in self], dim=1)
        return torch.cat([part(piece) for part, piece in zip(self, pieces)], dim=1)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection (slim's ``expanded_conv``).

    ``act_cfg`` is the activation after the first two; ``options`` are ``padding``, ``conv_cfg`` and ``norm_cfg``.
    """

    def __init__(self, layer: Layer, *, act_cfg: Cfg | None, **options: Any) -> None:
        super().__init__()
        self.layer = layer
        self.expand: nn.Module
        self.depthwise: nn.Module
        self.project: nn.Module
        modules: dict[str, list[ConvNormAct]] = {}
        for conv in layer.convolutions:
            act = None if conv.step == 'projection' else act_cfg
            name = conv.module.partition('.')[0]
            modules.setdefault(name, []).append(build_convolution(conv, act_cfg=act, **options))
        for name, parts in modules.items():
            self.add_module(name, parts[0] if len(parts) == 1 else SplitConv(parts))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Runs the block: (N, in_channels, H, W) to the tensor after each of ``layer.steps``."""
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


def build_layer(layer: Layer, *, act_cfg: Cfg | None, **options: Any) -> nn.Module:
    """A layer of a plan; options as for :class:`InvertedResidual`, whose ``act_cfg`` a layer may replace."""
    act_cfg = _resolve_act(layer.act, act_cfg)
    if layer.op == 'bottleneck':
        return InvertedResidual(layer, act_cfg=act_cfg, **options)
    return build_convolution(layer.convolutions[0], act_cfg=act_cfg, **options)


def _resolve_act(act: ActCfg, default: Cfg | None) -> Cfg | None:
    """The activation config of a table row: the network's own, another by name or config, or none."""
    if act == 'default':
        return default
    if isinstance(act, str):
        return dict(type=act)
    return dict(act) if isinstance(act, Mapping) else None


class _ClampInPlace(torch.autograd.Function):
    """Clamps to 0..6 in place and keeps the result for the gradient, as the next convolution does anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.clamp_(0, 6))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0.0, 6.0)  # y is inside (0, 6) exactly where x was


@MODELS.register_module()
class ReLU6(nn.ReLU6):
    """PyTorch's ReLU6 with the same values and gradients; in place it trains faster and in less memory.

    PyTorch's own copies its input before it overwrites it, although the output is enough for the gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return _relu6(x, self.inplace, self.inplace and self.training)


@torch.fx.wrap
def _relu6(x: Tensor, inplace: bool, records: bool) -> Tensor:
    if records and torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return _ClampInPlace.apply(x)
    return F.relu6(x, inplace)


@MODELS.register_module()
class SyncBN(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on CPU as on GPU; plain batch norm in one process.

    PyTorch's own does not work on CPUs, not even inside DistributedDataParallel. With this one, N processes compute
    what one process computes on the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return _normalized(x, self)

    def normalize(self, x: Tensor) -> Tensor:
        """What :meth:`forward` returns."""
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
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * total / (total - 1).clamp(min=1), momentum)


@torch.fx.wrap
def _normalized(x: Tensor, norm: SyncBN) -> Tensor:
    return norm.normalize(x)


def _all_reduce(x: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce  # differentiable; not there on every platform

    return all_reduce(x)
