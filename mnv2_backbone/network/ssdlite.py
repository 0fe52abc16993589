"""SSDLite on MobileNetV2, as in the TensorFlow Object Detection API: extra layers, head, detector.

Source: ``object_detection/models/{ssd_mobilenet_v2_feature_extractor,feature_map_generators}.py`` and
``ssdlite_mobilenet_v2_coco.config``; arXiv 1801.04381, section 6.2.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import MODELS
from .layers import Cfg, ConvNormAct, InitCfg, as_init_cfg
from .single_shot import RELU6, SingleShotHead

#: Batch norm of the detector's own layers (TensorFlow: decay 0.97 to 0.9997, epsilon 0.001).
SSDLITE_NORM = dict(type='BN', momentum=0.03, eps=0.001)
#: The Object Detection API's initialization: normal of deviation 0.03, cut at two deviations.
SSDLITE_INIT = (
    dict(type='TruncNormal', layer='Conv2d', std=0.03, a=-0.06, b=0.06),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
)


@MODELS.register_module()
class SSDLiteNeck(BaseModule):
    """The extra layers: each halves the map with 1x1, depthwise 3x3 stride 2, 1x1 convolutions.

    (MMDetection's ``SSDNeck`` cannot pad as TensorFlow does, nor scale with the width.)

    Args:
        in_channels, widen_factor: The backbone's; :class:`SSDLite` fills them in.
        extra_channels: Channels of each extra map at width 1; multiplied by the width, and never fewer than
            ``min_depth``.
        padding: ``'same'`` or ``'explicit'``.
        norm_cfg, act_cfg, init_cfg: As in mmcv and mmengine.
    """

    any_format_in = True

    def __init__(
        self,
        in_channels: Sequence[int],
        extra_channels: Sequence[int] = (512, 256, 256, 128),
        widen_factor: float = 1.0,
        min_depth: int = 16,
        padding: str = 'same',
        norm_cfg: Cfg | None = SSDLITE_NORM,
        act_cfg: Cfg | None = RELU6,
        init_cfg: InitCfg = SSDLITE_INIT,
    ) -> None:
        super().__init__(as_init_cfg(init_cfg))
        self.in_channels = tuple(in_channels)
        build: Cfg = dict(padding=padding, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def depth(channels: float) -> int:
            return max(int(channels * widen_factor), min_depth)

        self.extra_layers = nn.ModuleList()
        channels = self.in_channels[-1]
        for extra in extra_channels:
            half, out = depth(extra / 2), depth(extra)
            self.extra_layers.append(
                nn.Sequential(
                    ConvNormAct(channels, half, **build),
                    ConvNormAct(half, half, 3, 2, groups=half, **build),
                    ConvNormAct(half, out, **build),
                )
            )
            channels = out
        self.out_channels = (*self.in_channels, *(depth(extra) for extra in extra_channels))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the maps (N, C, h, w) that come in, and the extra ones after them."""
        maps = list(features)
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        return tuple(maps)


@MODELS.register_module()
class SSDLiteHead(SingleShotHead):
    """SSDLite's predictors, their loss and their boxes.

    A depthwise 3x3 and a plain 1x1 convolution on every map, one pair for classes and one for boxes. The loss is SSD's
    (hard negatives, smooth L1). (MMDetection's ``SSDHead`` loops over images, fails in ``predict``, and knows neither
    these anchors nor sigmoid scores.)

    Args:
        num_classes, in_channels, options: See :class:`SingleShotHead`.
        score_converter: ``'softmax'``, or ``'sigmoid'`` as Google's detector was trained.
        anchor_generator: A task utility with ``grid_priors`` and ``num_base_priors``.
        norm_cfg, act_cfg, init_cfg: As in mmcv and mmengine.

    ``train_cfg`` has ``neg_pos_ratio``, the hard negatives per match, and ``min_negatives`` at least in each image.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        score_converter: str = 'softmax',
        anchor_generator: Cfg = dict(type='mnv2_backbone.TFAnchorGenerator'),  # noqa: B006
        norm_cfg: Cfg | None = SSDLITE_NORM,
        act_cfg: Cfg | None = RELU6,
        init_cfg: InitCfg = SSDLITE_INIT,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, anchor_generator, score_converter, init_cfg, **options)
        priors = self.prior_generator.num_base_priors

        def predictor(channels: int, outputs: int) -> nn.Module:
            depthwise = ConvNormAct(channels, channels, 3, groups=channels, norm_cfg=norm_cfg, act_cfg=act_cfg)
            return nn.Sequential(depthwise, nn.Conv2d(channels, outputs, 1))

        self.cls_convs = nn.ModuleList(predictor(c, n * (num_classes + 1)) for c, n in zip(in_channels, priors))
        self.reg_convs = nn.ModuleList(predictor(c, n * 4) for c, n in zip(in_channels, priors))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (N, boxes * (num_classes + 1), h, w) and box codes (N, boxes * 4, h, w) of each map."""
        if len(features) != len(self.cls_convs):
            raise ValueError(
                f'{len(features)} feature maps for the {len(self.cls_convs)} levels of the head: must be equal'
            )
        cls_scores = [conv(x) for conv, x in zip(self.cls_convs, features)]
        bbox_preds = [conv(x) for conv, x in zip(self.reg_convs, features)]
        return cls_scores, bbox_preds

    def classification_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The loss of the matched anchors and of the hardest of the others; see :class:`SingleShotHead`."""
        assert self.train_cfg is not None
        cls = self._each(logits, labels) * weights
        positive = labels < self.num_classes
        negative = ~positive & (weights > 0)
        ratio, least = self.train_cfg.get('neg_pos_ratio', 3), self.train_cfg.get('min_negatives', 0)
        wanted = (positive.sum(1) * ratio).clamp(min=least)
        hardest = torch.where(negative, cls, cls.new_tensor(-1.0)).sort(1, descending=True).values
        chosen = torch.arange(cls.shape[1], device=cls.device) < wanted[:, None]
        return (cls * positive).sum() + (hardest.clamp(min=0) * chosen).sum()

    def _each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, P, num_classes + 1) and (N, P) to the loss of each anchor (N, P)."""
        if self.score_converter == 'softmax':
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').view_as(labels)
        target = F.one_hot(labels, logits.shape[-1]).to(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none').sum(-1)


@MODELS.register_module()
class SSDLite(SingleStageDetector):
    """MMDetection's single-stage detector whose parts take their channels from each other, SSDLite's or FPNLite's.

    The neck's ``in_channels`` and ``widen_factor`` come from the backbone, the head's ``in_channels`` from the neck; a
    list that is given nevertheless must fit. ``train_cfg`` and ``test_cfg`` are the head's.

    Raises:
        ValueError: A channel list does not fit the maps it is for.
    """

    def __init__(
        self,
        backbone: Cfg,
        neck: Cfg,
        bbox_head: Cfg,
        train_cfg: ConfigDict | None = None,
        test_cfg: ConfigDict | None = None,
        data_preprocessor: Cfg | None = None,
        init_cfg: Cfg | None = None,
    ) -> None:
        super(SingleStageDetector, self).__init__(data_preprocessor, init_cfg)
        self.backbone = MMDET_MODELS.build(backbone)
        neck = dict(neck)
        neck.setdefault('widen_factor', getattr(self.backbone, 'widen_factor', 1.0))
        self.neck = MMDET_MODELS.build(_fit('neck', neck, 'backbone', self.backbone.out_channels))
        head = _fit('bbox_head', dict(bbox_head), 'neck', self.neck.out_channels)
        self.bbox_head = MMDET_MODELS.build(dict(head, train_cfg=train_cfg, test_cfg=test_cfg))
        # Parts of this package take the channels-last format at full speed.
        self.backbone.any_format_out = all(
            getattr(part, 'any_format_in', False) for part in (self.neck, self.bbox_head)
        )
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg


def _fit(part: str, cfg: Cfg, source: str, channels: Sequence[int]) -> Cfg:
    given = tuple(cfg.setdefault('in_channels', tuple(channels)))
    if given != tuple(channels):
        raise ValueError(
            f"{part}.in_channels={given} does not fit the {source}'s outputs {tuple(channels)}; "
            'leave it out to take them'
        )
    return cfg
