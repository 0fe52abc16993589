"""MobileNetV2 as a backbone for MMDetection, MMSegmentation and MMPretrain."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS
from ..spec import V2_DEF, OutIndex, Spec, make_plan
from .fit import check_meta, load_backbone
from .layers import Cfg, ConvNormAct, InitCfg, as_init_cfg, build_layer

#: slim's batch norm: decay 0.997, which is torch's momentum 0.003, and epsilon 0.001.
SLIM_NORM = dict(type='BN', momentum=0.003, eps=0.001)

#: slim's weight decay: on full and 1x1 convolutions only. For ``optim_wrapper.paramwise_cfg``.
SLIM_PARAMWISE = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, dwconv_decay_mult=0.0)

#: slim's initialization: normal of deviation 0.09, cut at two deviations.
SLIM_INIT = (
    dict(type='TruncNormal', layer='Conv2d', std=0.09, a=-0.18, b=0.18),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
)

#: Options of other libraries' MobileNetV2, and what does here what they do there.
_ELSEWHERE = {
    'strides': 'output_stride=8, 16 or 32',
    'dilations': 'output_stride=8, 16 or 32',
    'pretrained': "init_cfg=dict(type='Pretrained', checkpoint='mnv2://imagenet-1.0')",
}


@MODELS.register_module()
class MobileNetV2(BaseModule):
    """MobileNetV2 (arXiv 1801.04381), exact to TF-slim's ``nets.mobilenet.mobilenet_v2``.

    Built from the plan of :func:`mnv2_backbone.make_plan`, kept as ``self.plan``; nothing after the last end point
    asked for is built.

    Args:
        widen_factor: Multiplies the channels (slim's ``depth_multiplier``).
        output_stride: None (32), 1, 2, 4, 8, 16 or 32: keeps resolution by atrous convolution.
        out_indices: End points by slim's name (``'layer_15/expansion_output'``), or MMDetection's stage numbers 0 to 7.
        padding: ``'same'`` (TensorFlow's) or ``'explicit'`` (symmetric, PyTorch's).
        finegrain: Keeps the last layer wide at ``widen_factor`` below 1.
        divisible_by: Channels are rounded to a multiple of this.
        min_depth: Channels are never fewer than this.
        spec: The layer table, :data:`mnv2_backbone.V2_DEF` or your own.
        in_channels: Channels of the images. Pretrained weights for three are adapted as in timm: summed up for one
            channel, otherwise repeated in turn and scaled.
        frozen_stages: -1 for none; k freezes the first layer and the first k stages, their norms' running statistics
            included. 8 is the whole network, with the last convolution.
        norm_eval: Keeps all batch norms in evaluation mode while training.
        with_cp: Trades time for memory by gradient checkpointing of the bottlenecks.
        channels_last: Computes in the channels-last memory format, which is up to twice as fast on CPUs and on GPUs
            with tensor cores; the values are the same up to rounding.
        conv_cfg, norm_cfg, act_cfg: As in mmcv. Defaults: Conv2d, slim's batch norm, ReLU6.
        init_cfg: As in mmengine, ``prefix`` included; slim's initialization by default.

    Raises:
        ValueError: An option has a value that cannot be built; the message names what is allowed.
        TypeError: There is no such option; for those of other libraries the message says what to write instead.

    Examples:
        >>> import torch
        >>> net = MobileNetV2(output_stride=16, out_indices=('layer_4', 'layer_18')).eval()
        >>> [tuple(x.shape) for x in net(torch.rand(1, 3, 64, 96))]
        [(1, 24, 16, 24), (1, 320, 4, 6)]
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        output_stride: int | None = None,
        out_indices: OutIndex | Sequence[OutIndex] = (1, 2, 4, 7),
        padding: str = 'same',
        finegrain: bool = False,
        divisible_by: int = 8,
        min_depth: int = 8,
        spec: Spec = V2_DEF,
        in_channels: int = 3,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        channels_last: bool = True,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = SLIM_NORM,
        act_cfg: Cfg | None = dict(type='mnv2_backbone.ReLU6'),  # noqa: B006 - read only, mm's idiom
        init_cfg: InitCfg = SLIM_INIT,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            hint = f'; write {_ELSEWHERE[name]}' if name in _ELSEWHERE else ''
            raise TypeError(f'MobileNetV2 has no option {name!r}{hint}')
        super().__init__(as_init_cfg(init_cfg))
        self.plan = make_plan(
            spec,
            widen_factor=widen_factor,
            output_stride=output_stride,
            out_indices=out_indices,
            padding=padding,
            finegrain=finegrain,
            divisible_by=divisible_by,
            min_depth=min_depth,
            in_channels=in_channels,
        )
        if frozen_stages not in range(-1, self.plan.num_stages + 1):
            raise ValueError(f'frozen_stages={frozen_stages!r}: allowed are -1 (none) to {self.plan.num_stages} (all)')
        self._initialized = False
        self.widen_factor = widen_factor
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.channels_last = channels_last
        #: Whether outputs may be in any memory format; mmcv's operators read all memory as contiguous.
        self.any_format_out = False
        for layer in self.plan.layers:
            block = build_layer(layer, padding=padding, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
            self.add_module(layer.name, block)
        for block in self._frozen_blocks():
            block.requires_grad_(False)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""
        return tuple(point.channels for point in self.plan.outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the end points asked for, from images (N, in_channels, H, W), for Google's weights from -1 to 1.

        Returns:
            One (N, C, ceil(H / stride), ceil(W / stride)) for each of ``out_indices``, in their order.
        """
        wanted = {(point.layer, point.step) for point in self.plan.outputs}
        kept: dict[tuple[str, str], Tensor] = {}
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.plan.layers:
            block = getattr(self, layer.name)
            if layer.op == 'conv':
                steps = {'output': block(x)}
            elif self.with_cp and x.requires_grad:
                contexts = partial(_contexts_of_checkpointing, block)
                steps = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
            else:
                steps = block(x)
            kept.update({(layer.name, step): y for step, y in steps.items() if (layer.name, step) in wanted})
            x = steps[layer.steps[-1]]
        outputs = (kept[end.layer, end.step][:, end.start : end.start + end.channels] for end in self.plan.outputs)
        return tuple(y if self.any_format_out else y.contiguous() for y in outputs)

    def init_weights(self) -> None:
        """Initializes by ``init_cfg``; unlike mmengine's, ``Pretrained`` loads all of the backbone or raises an error.

        The checkpoint may be a backbone's or that of a larger network with ``backbone.*`` in it, and may have more
        layers.
        """
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        pretrained = [cfg for cfg in cfgs if cfg.get('type') == 'Pretrained']
        if pretrained and (
            len(cfgs) > 1 or not pretrained[0].keys() <= {'type', 'checkpoint', 'prefix', 'map_location'}
        ):
            raise ValueError(f'init_cfg={self.init_cfg}: Pretrained stands alone, with checkpoint and maybe prefix')
        if not pretrained:
            super().init_weights()
        elif not self._initialized:
            checkpoint = _load_checkpoint(pretrained[0]['checkpoint'], map_location='cpu')
            check_meta(self, checkpoint.get('meta'))
            state, prefix = checkpoint.get('state_dict', checkpoint), pretrained[0].get('prefix')
            load_backbone(self, state, prefix=prefix and f'{prefix.rstrip(".")}.')
            self._initialized = self.is_init = True

    def train(self, mode: bool = True) -> 'MobileNetV2':
        """Sets the mode; what is frozen, and with ``norm_eval`` every batch norm, stays in evaluation mode."""
        super().train(mode)
        for block in self._frozen_blocks():
            block.eval()
            for module in block.modules():
                if isinstance(module, ConvNormAct):
                    module.folds_norm = mode and module.can_fold_norm
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_blocks(self) -> list[nn.Module]:
        return [getattr(self, layer.name) for layer in self.plan.layers if layer.stage <= self.frozen_stages]


def _contexts_of_checkpointing(block: nn.Module) -> tuple[Any, Any]:
    """For the forward pass and for its repetition, in which norms must not update their statistics once more."""

    @contextmanager
    def repetition() -> Iterator[None]:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            count = norm.num_batches_tracked
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, kept):
                norm.momentum, norm.num_batches_tracked = momentum, count

    return nullcontext(), repetition()
