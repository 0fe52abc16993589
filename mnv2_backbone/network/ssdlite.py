"""SSDLite on MobileNetV2, as in the TensorFlow Object Detection API: extra layers, head, detector.

Source: ``object_detection/models/{ssd_mobilenet_v2_feature_extractor,feature_map_generators}.py`` and
``ssdlite_mobilenet_v2_coco.config``; arXiv 1801.04381, section 6.2.
"""

import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..registry import MODELS
from .layers import Cfg, ConvNormAct, InitCfg, as_init_cfg

#: Batch norm of the detector's own layers (TensorFlow: decay 0.97 to 0.9997, epsilon 0.001).
SSDLITE_NORM = dict(type='BN', momentum=0.03, eps=0.001)
#: The Object Detection API's initialization: normal of deviation 0.03, cut at two deviations.
SSDLITE_INIT = (
    dict(type='TruncNormal', layer='Conv2d', std=0.03, a=-0.06, b=0.06),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
)
RELU6 = dict(type='mnv2_backbone.ReLU6')
_TEST_OPTIONS = ('score_thr', 'nms_pre', 'nms', 'max_per_img', 'min_bbox_size')


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
class SSDLiteHead(BaseDenseHead):
    """SSDLite's predictors, their loss and their boxes.

    A depthwise 3x3 and a plain 1x1 convolution on every map, one pair for classes and one for boxes. The loss is SSD's
    (hard negatives, smooth L1), computed for the whole batch at once and normalized by the matches of all processes, so
    that N processes train as one does. (MMDetection's ``SSDHead`` loops over images, fails in ``predict``, and knows
    neither these anchors nor sigmoid scores.)

    Args:
        num_classes: Classes without the background.
        in_channels: Channels of each map; :class:`SSDLite` fills it from the neck.
        score_converter: ``'softmax'``, or ``'sigmoid'`` as Google's detector was trained. Both predict ``num_classes +
            1`` scores, the background last.
        anchor_generator, bbox_coder: MMDetection task utilities.
        norm_cfg, act_cfg, init_cfg: As in mmcv and mmengine.
        train_cfg: ``assigner``; ``neg_pos_ratio`` hard negatives per match, ``min_negatives`` at least in each image;
            ``smoothl1_beta``.
        test_cfg: ``score_thr``, ``nms_pre`` (-1: all), ``nms``, ``max_per_img``, ``min_bbox_size``.

    Raises:
        ValueError: ``score_converter`` or an option in ``test_cfg`` is unknown, or the maps and the anchor levels
            differ in number.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        score_converter: str = 'softmax',
        anchor_generator: Cfg = dict(type='mnv2_backbone.TFAnchorGenerator'),  # noqa: B006
        bbox_coder: Cfg = dict(  # noqa: B006
            type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
        ),
        norm_cfg: Cfg | None = SSDLITE_NORM,
        act_cfg: Cfg | None = RELU6,
        train_cfg: ConfigDict | None = None,
        test_cfg: ConfigDict | None = None,
        init_cfg: InitCfg = SSDLITE_INIT,
    ) -> None:
        super().__init__(as_init_cfg(init_cfg))
        if score_converter not in ('softmax', 'sigmoid'):
            raise ValueError(f"score_converter={score_converter!r}: allowed are 'softmax' and 'sigmoid'")
        if unknown := [option for option in test_cfg or () if option not in _TEST_OPTIONS]:
            raise ValueError(f'test_cfg.{unknown[0]}: no such option; allowed are {", ".join(_TEST_OPTIONS)}')
        if test_cfg and test_cfg.get('max_per_img', 1) < 1:
            raise ValueError(f'test_cfg.max_per_img={test_cfg["max_per_img"]}: allowed are integers from 1')
        self.num_classes = num_classes
        self.score_converter = score_converter
        self.prior_generator = MMDET_TASK_UTILS.build(anchor_generator)
        self.bbox_coder = MMDET_TASK_UTILS.build(bbox_coder)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner = MMDET_TASK_UTILS.build(train_cfg['assigner'])
        priors = self.prior_generator.num_base_priors
        if len(priors) != len(in_channels):
            raise ValueError(
                f'anchor_generator has {len(priors)} levels, in_channels={tuple(in_channels)} has '
                f'{len(in_channels)}: set num_levels'
            )

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

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch, ``loss_cls`` and ``loss_bbox``, scalars.

        Args:
            cls_scores, bbox_preds: As returned by :meth:`forward`.
            batch_gt_instances: ``bboxes`` (n, 4) in input pixels and ``labels`` (n,) of each image.
            batch_img_metas: ``batch_input_shape`` (H, W).
            batch_gt_instances_ignore: ``bboxes`` to leave out, if the assigner asks for it.
        """
        assert self.train_cfg is not None, 'built without train_cfg'
        logits, codes = self.flatten(cls_scores, bbox_preds)
        anchors = self._anchors(cls_scores, batch_img_metas)
        labels, weights, boxes = self._targets(
            anchors, batch_gt_instances, batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        )
        positive = labels < self.num_classes
        matches = positive.sum(1)
        cls = self._classification_loss(logits, labels) * weights
        negative = ~positive & (weights > 0)
        wanted = (matches * self.train_cfg.get('neg_pos_ratio', 3)).clamp(min=self.train_cfg.get('min_negatives', 0))
        hardest = torch.where(negative, cls, cls.new_tensor(-1.0)).sort(1, descending=True).values
        chosen = torch.arange(cls.shape[1], device=cls.device) < wanted[:, None]
        loss_cls = (cls * positive).sum() + (hardest.clamp(min=0) * chosen).sum()

        targets = self.bbox_coder.encode(anchors.expand(len(boxes), -1, 4)[positive], boxes[positive])
        beta = self.train_cfg.get('smoothl1_beta', 1.0)
        loss_bbox = F.smooth_l1_loss(codes[positive], targets, beta=beta, reduction='sum')

        total = matches.sum().float()
        all_reduce(total)
        total = total.clamp(min=1) / get_world_size()
        return dict(loss_cls=loss_cls / total, loss_bbox=loss_bbox / total)

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_img_metas: list[dict],
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """The detections of a batch: for each image ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,).

        Args:
            cls_scores, bbox_preds: As returned by :meth:`forward`.
            batch_img_metas: ``batch_input_shape``, ``img_shape`` and, to rescale, ``scale_factor``.
            cfg: Instead of ``test_cfg``.
            rescale: Whether to return boxes in pixels of the original image.
            with_nms: Whether to suppress overlapping boxes.
        """
        cfg = self.test_cfg if cfg is None else cfg
        assert cfg is not None, 'built without test_cfg'
        if cfg.nms.get('class_agnostic'):  # beyond split_thr boxes mmcv would forget it
            cfg = ConfigDict(cfg, nms=dict(cfg.nms, split_thr=sys.maxsize))
        logits, codes = self.flatten(cls_scores, bbox_preds)
        anchors = self._anchors(cls_scores, batch_img_metas)
        limit = cfg.get('nms_pre', -1)
        limit = limit if limit > 0 else logits[0].numel()  # with -1 MMDetection drops the last of them
        results = []
        for scores, code, meta in zip(self.scores(logits), codes, batch_img_metas):
            top, classes, _, kept = filter_scores_and_topk(
                scores, cfg.score_thr, limit, dict(code=code, anchors=anchors)
            )
            boxes = self.bbox_coder.decode(kept['anchors'], kept['code'], max_shape=meta['img_shape'])
            found = InstanceData(bboxes=boxes, scores=top, labels=classes)
            results.append(self._bbox_post_process(found, cfg, rescale, with_nms, meta))
        return results

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (..., num_classes + 1) to scores (..., num_classes)."""
        converted = logits.softmax(-1) if self.score_converter == 'softmax' else logits.sigmoid()
        return converted[..., :-1]

    def flatten(self, cls_scores: list[Tensor], bbox_preds: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The outputs of :meth:`forward` as logits (N, anchors, num_classes + 1) and codes (N, anchors, 4), float32."""

        def flat(maps: list[Tensor], channels: int) -> Tensor:
            return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels) for x in maps], 1).float()

        return flat(cls_scores, self.num_classes + 1), flat(bbox_preds, 4)

    def _anchors(self, maps: list[Tensor], batch_img_metas: list[dict]) -> Tensor:
        meta = batch_img_metas[0]
        size = tuple(meta.get('batch_input_shape', meta['img_shape'])[:2])
        sizes = [tuple(x.shape[2:]) for x in maps]
        return torch.cat(self.prior_generator.grid_priors(sizes, size, device=maps[0].device))

    def _targets(
        self, anchors: Tensor, batch_gt: list[InstanceData], batch_ignore: Sequence[InstanceData | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N, P), weights (N, P), and the matched box (N, P, 4) of each anchor."""
        priors = InstanceData(priors=anchors)
        labels = anchors.new_full((len(batch_gt), len(anchors)), self.num_classes, dtype=torch.long)
        weights = anchors.new_ones(labels.shape)
        boxes = anchors.new_zeros((*labels.shape, 4))
        for i, (gt, ignore) in enumerate(zip(batch_gt, batch_ignore)):
            # Some data sets have boxes without an area; the loss of one would be infinite.
            gt = gt[(gt.bboxes[:, 2:] > gt.bboxes[:, :2]).all(1)]
            match = self.assigner.assign(priors, gt, ignore).gt_inds  # 0: background, -1: ignored
            weights[i, match < 0] = 0
            positive = match > 0
            labels[i, positive] = gt.labels[match[positive] - 1]
            boxes[i, positive] = gt.bboxes[match[positive] - 1]
        return labels, weights, boxes

    def _classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, P, num_classes + 1) and (N, P) to the loss of each anchor (N, P)."""
        if self.score_converter == 'softmax':
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').view_as(labels)
        target = F.one_hot(labels, logits.shape[-1]).to(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none').sum(-1)


@MODELS.register_module()
class SSDLite(SingleStageDetector):
    """MMDetection's single-stage detector whose parts take their channels from each other.

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
        ours = isinstance(self.neck, SSDLiteNeck) and isinstance(self.bbox_head, SSDLiteHead)
        self.backbone.any_format_out = ours  # which takes the channels-last format at full speed
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
