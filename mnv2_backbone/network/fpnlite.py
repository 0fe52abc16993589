"""FPNLite on MobileNetV2, as in the TensorFlow Object Detection API: neck, head, anchors.

Source: ``object_detection/models/{ssd_mobilenet_v2_fpn_keras_feature_extractor,feature_map_generators}.py``,
``predictors/convolutional_keras_box_predictor.py``, ``anchor_generators/multiscale_grid_anchor_generator.py`` and
``ssd_mobilenet_v2_fpnlite_{320x320,640x640}_coco17_tpu-8.config``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmdet.models.task_modules import AnchorGenerator
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import sigmoid_focal_loss

from ..registry import MODELS, TASK_UTILS
from .anchors import Size
from .layers import Cfg, ConvNormAct, InitCfg, as_init_cfg
from .single_shot import RELU6, SingleShotHead

#: Batch norm of the detector's own layers (TensorFlow: decay 0.997, epsilon 0.001).
FPNLITE_NORM = dict(type='BN', momentum=0.003, eps=0.001)
#: The Object Detection API's initialization: normal of deviation 0.01.
FPNLITE_INIT = (dict(type='Normal', layer='Conv2d', std=0.01), dict(type='Constant', layer='_BatchNorm', val=1.0))
#: That of the head, whose score of every class is 0.01 at first.
HEAD_INIT = (
    dict(FPNLITE_INIT[0], override=dict(type='Normal', name='cls_convs', std=0.01, bias=-4.6)),
    FPNLITE_INIT[1],
)


def _depthwise(channels: int, stride: int = 1, padding: str = 'same') -> ConvNormAct:
    return ConvNormAct(channels, channels, 3, stride, groups=channels, padding=padding, bias=False)


def separable(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    padding: str = 'same',
    norm_cfg: Cfg | None = None,
    act_cfg: Cfg | None = None,
) -> nn.Sequential:
    """Keras's ``SeparableConv2D``, 3x3: a depthwise and a 1x1 convolution with nothing in between, norm, activation."""
    depthwise = _depthwise(in_channels, stride, padding)
    return nn.Sequential(depthwise, ConvNormAct(in_channels, out_channels, norm_cfg=norm_cfg, act_cfg=act_cfg))


def _bare(in_channels: int, out_channels: int, bias: bool = False) -> nn.Sequential:
    """A separable convolution without a norm."""
    return nn.Sequential(_depthwise(in_channels), nn.Conv2d(in_channels, out_channels, 1, bias=bias))


def _norm(cfg: Cfg | None, channels: int) -> nn.Module:
    norm: nn.Module = build_norm_layer(cfg, channels)[1] if cfg else nn.Identity()
    return norm


@MODELS.register_module()
class FPNLiteNeck(BaseModule):
    """A feature pyramid of separable convolutions, and coarser maps from its last.

    From the coarsest to the finest map of the backbone: a 1x1 convolution, plus the map above enlarged to its size,
    then (but for the coarsest) a separable convolution, whose output goes on down. (MMDetection's ``FPN`` adds up the
    maps before they are convolved, and takes the coarser ones from elsewhere.)

    Args:
        in_channels, widen_factor: The backbone's; :class:`SSDLite` fills them in.
        depth: Channels of all maps at width 1; multiplied by the width, and never fewer than ``min_depth``.
        num_outs: Number of maps; those beyond the backbone's halve the last.
        padding: ``'same'`` or ``'explicit'``.
        norm_cfg, act_cfg, init_cfg: As in mmcv and mmengine.
    """

    any_format_in = True

    def __init__(
        self,
        in_channels: Sequence[int],
        depth: int = 128,
        num_outs: int = 5,
        widen_factor: float = 1.0,
        min_depth: int = 16,
        padding: str = 'same',
        norm_cfg: Cfg | None = FPNLITE_NORM,
        act_cfg: Cfg | None = RELU6,
        init_cfg: InitCfg = FPNLITE_INIT,
    ) -> None:
        super().__init__(as_init_cfg(init_cfg))
        self.in_channels = tuple(in_channels)
        if num_outs < len(self.in_channels):
            raise ValueError(f'num_outs={num_outs}: must be at least the {len(self.in_channels)} maps of the backbone')
        channels = max(int(depth * widen_factor), min_depth)
        build: Cfg = dict(padding=padding, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in self.in_channels)
        self.smooth_convs = nn.ModuleList(separable(channels, channels, **build) for _ in self.in_channels[1:])
        more = num_outs - len(self.in_channels)
        self.extra_layers = nn.ModuleList(separable(channels, channels, 2, **build) for _ in range(more))
        self.out_channels = (channels,) * num_outs

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """From the backbone's maps, the finest first, to maps (N, depth, h, w) of the same sizes and the coarser."""
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features)]
        for i in reversed(range(len(maps) - 1)):
            above = F.interpolate(maps[i + 1], size=maps[i].shape[2:], mode='nearest')
            maps[i] = self.smooth_convs[i](maps[i] + above)
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        return tuple(maps)


@MODELS.register_module()
class FPNLiteHead(SingleShotHead):
    """FPNLite's predictors and their loss.

    A tower of separable convolutions for classes and boxes together, then a separable convolution for each; all levels
    share their weights, but have batch norms of their own. The loss is the sigmoid focal loss (arXiv 1708.02002) and
    smooth L1 on a quarter of its weight, as the API divides by the four codes of a box. (MMDetection's
    ``RetinaSepBNHead`` has two towers, of full convolutions, and no score of the background, which the API trains.)

    Args:
        num_classes, in_channels, options: See :class:`SingleShotHead`; all maps and levels must be alike.
        feat_channels, stacked_convs: Channels and number of the separable convolutions of the tower.
        anchor_generator: As :class:`FPNLiteAnchorGenerator`.
        norm_cfg, act_cfg, init_cfg: As in mmcv and mmengine.

    ``train_cfg`` has ``focal_alpha`` and ``focal_gamma``.
    """

    #: The API clips boxes after NMS alone; farther out they are few, and cost precision in telling classes apart.
    margin = 2
    box_weight = 0.25

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        feat_channels: int = 128,
        stacked_convs: int = 4,
        anchor_generator: Cfg = dict(type='mnv2_backbone.FPNLiteAnchorGenerator'),  # noqa: B006
        norm_cfg: Cfg | None = FPNLITE_NORM,
        act_cfg: Cfg | None = RELU6,
        init_cfg: InitCfg = HEAD_INIT,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, anchor_generator, 'sigmoid', init_cfg, **options)
        priors = self.prior_generator.num_base_priors
        if len(set(in_channels)) > 1 or len(set(priors)) > 1:
            raise ValueError(
                f'in_channels={tuple(in_channels)}, {priors} anchors per cell: must be the same on all levels, which '
                'share a predictor'
            )
        widths = [in_channels[0], *[feat_channels] * stacked_convs]
        # One list of convolutions for all levels; folded, each level has its own.
        self.convs = nn.ModuleList([nn.ModuleList(_bare(*pair) for pair in zip(widths, widths[1:]))])
        self.norms = nn.ModuleList(nn.ModuleList(_norm(norm_cfg, width) for width in widths[1:]) for _ in in_channels)
        self.act = build_activation_layer(act_cfg) if act_cfg else nn.Identity()

        def predictor(outputs: int) -> nn.Module:
            return _bare(widths[-1], outputs, bias=True)

        # One for all levels, under the names that other heads' first has.
        self.cls_convs = nn.ModuleList([predictor(priors[0] * (num_classes + 1))])
        self.reg_convs = nn.ModuleList([predictor(priors[0] * 4)])

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (N, boxes * (num_classes + 1), h, w) and box codes (N, boxes * 4, h, w) of each map."""
        if len(features) != len(self.norms):
            raise ValueError(f'{len(features)} feature maps for the {len(self.norms)} levels of the head')
        all_convs: Any = list(self.convs) * (len(features) if len(self.convs) == 1 else 1)
        all_norms: Any = self.norms
        maps = []
        for x, convs, norms in zip(features, all_convs, all_norms):
            for conv, norm in zip(convs, norms):
                x = self.act(norm(conv(x)))
            maps.append(x)
        return [self.cls_convs[0](x) for x in maps], [self.reg_convs[0](x) for x in maps]

    def fold_levels(self) -> None:
        """Folds the norms of each level into convolutions of its own, in place."""
        convs: Any = self.convs[0]
        levels: Any = self.norms

        def folded(conv: Any, norm: nn.Module) -> tuple[nn.Module, nn.Module]:
            if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
                return conv, norm
            return nn.Sequential(conv[0], fuse_conv_bn_eval(conv[1], norm)), nn.Identity()

        pairs = [[folded(*pair) for pair in zip(convs, norms)] for norms in levels]
        self.convs, self.norms = (
            nn.ModuleList(nn.ModuleList(pair[i] for pair in level) for level in pairs) for i in range(2)
        )

    def classification_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The focal loss of all scores, of which the background's should be 0 everywhere; see the base class."""
        assert self.train_cfg is not None
        target = F.one_hot(labels, self.num_classes + 1).to(logits)
        target[..., -1] = 0
        alpha, gamma = self.train_cfg.get('focal_alpha', 0.25), self.train_cfg.get('focal_gamma', 2.0)
        return (sigmoid_focal_loss(logits, target, alpha, gamma).sum(-1) * weights).sum()

    def _match(self, anchors: Tensor, gt: InstanceData, ignore: InstanceData | None, size: Size) -> Tensor:
        """In parts of the image, as the API: the same of several anchors that overlap an object equally is the best."""
        sides = anchors.new_tensor([size[1], size[0]] * 2)

        def in_parts(found: Any) -> Any:
            return found and InstanceData(bboxes=found.bboxes / sides, labels=found.labels)

        return super()._match(anchors * (1 / sides), in_parts(gt), in_parts(ignore), size)


@TASK_UTILS.register_module()
class FPNLiteAnchorGenerator(AnchorGenerator):
    """The API's anchors on a pyramid: MMDetection's, but at the corners of cells that the image does not divide by.

    Args:
        strides: Pixels of a cell of each level.
        octave_base_scale, scales_per_octave: Sides of the anchors in cells: base times 1, 2^(1/n), 2^(2/n) ...
        ratios: Height over width, the outer of the two in the order of the anchors of a cell.
    """

    def __init__(
        self,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        octave_base_scale: float = 4,
        scales_per_octave: int = 2,
        ratios: Sequence[float] = (1.0, 0.5, 2.0),
    ) -> None:
        sizes = dict(octave_base_scale=octave_base_scale, scales_per_octave=scales_per_octave)
        super().__init__(strides, ratios, center_offset=0.5, **sizes)

    def grid_priors(
        self,
        featmap_sizes: Sequence[Size],
        image_size: Size,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> list[Tensor]:
        """The boxes in an input of (H, W) pixels; see :meth:`TFAnchorGenerator.grid_priors`."""
        levels = super().grid_priors(featmap_sizes, dtype, device)
        for boxes, stride in zip(levels, self.strides):
            y, x = (0 if side % step == 0 else step / 2 for side, step in zip(image_size, stride[::-1]))
            boxes -= boxes.new_tensor([x, y, x, y])
        return levels
