"""SSDLite on MobileNetV2, as in the TensorFlow Object Detection API: anchors, extra layers, head, detector.

Source: ``object_detection/{models/ssd_mobilenet_v2_feature_extractor,models/feature_map_generators,
anchor_generators/multiple_grid_anchor_generator}.py`` and ``ssdlite_mobilenet_v2_coco.config``;
arXiv 1801.04381, section 6.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

from .layers import ConvNormAct
from .registry import MODELS, TASK_UTILS

Cfg = dict[str, Any]
Size = tuple[int, int]

#: Batch norm of the detector's own layers (TensorFlow: decay 0.97 to 0.9997, epsilon 0.001).
SSDLITE_NORM = dict(type='BN', momentum=0.03, eps=0.001)
#: The Object Detection API's initialisation: normal of deviation 0.03, cut at two deviations.
SSDLITE_INIT = (
    dict(type='TruncNormal', layer='Conv2d', std=0.03, a=-0.06, b=0.06),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
)
RELU6 = dict(type='mnv2_backbone.ReLU6')


@TASK_UTILS.register_module()
class TFAnchorGenerator:
    """TensorFlow's SSD anchors (``create_ssd_anchors``), for any size of picture.

    Sizes are relative to the picture's shorter side and centres are spread evenly over each map, so the
    anchors fit any input, also one that is not square. (MMDetection's ``SSDAnchorGenerator`` fixes both in
    pixels, has no 0.1 box on the first map and leaves the last maps off centre.)

    Args:
        num_levels: Number of feature maps.
        min_scale, max_scale: Scales of the first and the last map; those between are evenly spaced.
        aspect_ratios: Width over height of the boxes of each map.
        interpolated_ratio: Aspect ratio of one more box at the geometric mean of a map's scale and the
            next; 0 for none.
        reduce_boxes_in_lowest_layer: Gives the first map three boxes instead: a square one of scale 0.1,
            and 2:1 and 1:2 ones of ``min_scale``.
        reference_size: Shorter side of a picture, in pixels, that the scales refer to; None: the input's own. With
            the size that a detector was trained at, its boxes keep their pixels at any other: a larger input then
            finds smaller objects without training.

    Raises:
        ValueError: An option is out of range.

    Examples:
        >>> sizes = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
        >>> sum(len(level) for level in TFAnchorGenerator().grid_priors(sizes, (300, 300)))
        1917
    """

    def __init__(
        self,
        num_levels: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 0.3333),
        interpolated_ratio: float = 1.0,
        reduce_boxes_in_lowest_layer: bool = True,
        reference_size: int | None = None,
    ) -> None:
        if num_levels < 2:
            raise ValueError(f'num_levels={num_levels!r}: allowed are numbers from 2')
        if not 0 < min_scale < max_scale:
            raise ValueError(
                f'min_scale={min_scale!r}, max_scale={max_scale!r}: must be above 0 and in this order'
            )
        if reference_size is not None and not reference_size > 0:
            raise ValueError(f'reference_size={reference_size!r}: allowed are None and numbers of pixels above 0')
        self.reference_size = reference_size
        if not aspect_ratios or min(aspect_ratios) <= 0:
            raise ValueError(f'aspect_ratios={aspect_ratios!r}: allowed are numbers above 0, one or more')
        step = (max_scale - min_scale) / (num_levels - 1)
        scales = [min_scale + step * i for i in range(num_levels)] + [1.0]
        self.boxes = []  # (scale, aspect ratio) of each box of each map, in TensorFlow's order
        for i, (scale, following) in enumerate(zip(scales, scales[1:])):
            if i == 0 and reduce_boxes_in_lowest_layer:
                self.boxes.append([(0.1, 1.0), (scale, 2.0), (scale, 0.5)])
                continue
            level = [(scale, ratio) for ratio in aspect_ratios]
            if interpolated_ratio > 0:
                level.append(((scale * following) ** 0.5, interpolated_ratio))
            self.boxes.append(level)

    @property
    def num_levels(self) -> int:
        """Number of feature maps."""
        return len(self.boxes)

    @property
    def num_base_priors(self) -> list[int]:
        """Boxes at each pixel of each map."""
        return [len(level) for level in self.boxes]

    def grid_priors(
        self,
        featmap_sizes: Sequence[Size],
        image_size: Size,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> list[Tensor]:
        """Lays the boxes over the maps.

        Args:
            featmap_sizes: (h, w) of each map.
            image_size: (H, W) of the network's input, in pixels.
            dtype, device: Of the boxes.

        Returns:
            For each map (h * w * boxes, 4): x1, y1, x2, y2 in pixels; rows first, then columns, then
            boxes.
        """
        height, width = image_size
        shorter = self.reference_size or min(image_size)
        levels = []
        for (h, w), boxes in zip(featmap_sizes, self.boxes):
            scale, ratio = torch.tensor(boxes, dtype=dtype, device=device).unbind(1)
            half = shorter / 2 * torch.stack([scale * ratio.sqrt(), scale / ratio.sqrt()], 1)
            x = (torch.arange(w, dtype=dtype, device=device) + 0.5) * (width / w)
            y = (torch.arange(h, dtype=dtype, device=device) + 0.5) * (height / h)
            centre = torch.stack(torch.meshgrid(x, y, indexing='xy'), 2)[:, :, None]
            levels.append(torch.cat([centre - half, centre + half], 3).reshape(-1, 4))
        return levels


@MODELS.register_module()
class SSDLiteNeck(BaseModule):
    """The extra layers: each halves the map with 1x1, depthwise 3x3 stride 2, 1x1 convolutions.

    (MMDetection's ``SSDNeck`` cannot pad as TensorFlow does, nor scale with the width.)

    Args:
        in_channels: Channels of each incoming map; :class:`SSDLite` fills it from the backbone.
        extra_channels: Channels of each extra map at width 1.
        widen_factor: Multiplies the extra channels; :class:`SSDLite` fills it from the backbone.
        min_depth: Extra channels are never fewer than this.
        padding: ``'same'`` or ``'explicit'``.
        norm_cfg, act_cfg, init_cfg: As everywhere in mm.
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
        init_cfg: Cfg | Sequence[Cfg] | None = SSDLITE_INIT,
    ) -> None:
        super().__init__(list(init_cfg) if isinstance(init_cfg, (list, tuple)) else init_cfg)
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
        """Maps (N, C, h, w) in, the same and the extra ones out."""
        maps = list(features)
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        return tuple(maps)


@MODELS.register_module()
class SSDLiteHead(BaseDenseHead):
    """SSDLite's predictors, their loss and their boxes.

    A depthwise 3x3 and a plain 1x1 convolution on every map, one pair for classes and one for boxes. The
    loss is SSD's (hard negatives, smooth L1), computed for the whole batch at once and normalised by the
    matches of all processes, so that N processes train as one does. (MMDetection's ``SSDHead`` loops over
    pictures, fails in ``predict``, and knows neither these anchors nor sigmoid scores.)

    Args:
        num_classes: Classes without the background.
        in_channels: Channels of each map; :class:`SSDLite` fills it from the neck.
        score_converter: ``'softmax'``, or ``'sigmoid'`` as Google's detector was trained. Both predict
            ``num_classes + 1`` scores, the background last.
        anchor_generator, bbox_coder: MMDetection task utilities.
        norm_cfg, act_cfg, init_cfg: As everywhere in mm.
        train_cfg: ``assigner``; ``neg_pos_ratio`` hard negatives per match, ``min_negatives`` at least in
            each picture; ``smoothl1_beta``.
        test_cfg: ``score_thr``, ``nms_pre`` (-1: all), ``nms``, ``max_per_img``, ``min_bbox_size``.

    Raises:
        ValueError: ``score_converter`` is unknown, or there are not as many maps as anchor levels.
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
        init_cfg: Cfg | Sequence[Cfg] | None = SSDLITE_INIT,
    ) -> None:
        super().__init__(list(init_cfg) if isinstance(init_cfg, (list, tuple)) else init_cfg)
        if score_converter not in ('softmax', 'sigmoid'):
            raise ValueError(f"score_converter={score_converter!r}: allowed are 'softmax' and 'sigmoid'")
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
            depthwise = ConvNormAct(
                channels, channels, 3, groups=channels, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
            return nn.Sequential(depthwise, nn.Conv2d(channels, outputs, 1))

        self.cls_convs = nn.ModuleList(
            predictor(c, n * (num_classes + 1)) for c, n in zip(in_channels, priors)
        )
        self.reg_convs = nn.ModuleList(predictor(c, n * 4) for c, n in zip(in_channels, priors))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predicts from each map.

        Args:
            features: Maps (N, C, h, w).

        Returns:
            Class logits (N, boxes * (num_classes + 1), h, w) and box codes (N, boxes * 4, h, w) of each.
        """
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
        """The losses of a batch.

        Args:
            cls_scores, bbox_preds: As returned by :meth:`forward`.
            batch_gt_instances: ``bboxes`` (n, 4) in input pixels and ``labels`` (n,) of each picture.
            batch_img_metas: ``batch_input_shape`` (H, W).
            batch_gt_instances_ignore: ``bboxes`` to leave out, where the assigner asks for it.

        Returns:
            ``loss_cls`` and ``loss_bbox``, scalars.
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
        wanted = (matches * self.train_cfg.get('neg_pos_ratio', 3)).clamp(
            min=self.train_cfg.get('min_negatives', 0)
        )
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
        """The detections of a batch.

        Args:
            cls_scores, bbox_preds: As returned by :meth:`forward`.
            batch_img_metas: ``batch_input_shape``, ``img_shape`` and, to rescale, ``scale_factor``.
            cfg: Instead of ``test_cfg``.
            rescale: Whether to return boxes in pixels of the original picture.
            with_nms: Whether to suppress overlapping boxes.

        Returns:
            For each picture ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,).
        """
        cfg = self.test_cfg if cfg is None else cfg
        assert cfg is not None, 'built without test_cfg'
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
        """What :meth:`forward` returns, as logits (N, anchors, num_classes + 1) and codes (N, anchors, 4), float32."""

        def flat(maps: list[Tensor], channels: int) -> Tensor:
            return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels) for x in maps], 1).float()

        return flat(cls_scores, self.num_classes + 1), flat(bbox_preds, 4)

    def _anchors(self, maps: list[Tensor], batch_img_metas: list[dict]) -> Tensor:
        meta = batch_img_metas[0]
        size = tuple(meta.get('batch_input_shape', meta['img_shape'])[:2])
        sizes = [tuple(x.shape[2:]) for x in maps]
        return torch.cat(self.prior_generator.grid_priors(sizes, size, device=maps[0].device))

    def _targets(
        self,
        anchors: Tensor,
        batch_gt: list[InstanceData],
        batch_ignore: Sequence[InstanceData | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N, P), weights (N, P), and the matched box (N, P, 4) of each anchor."""
        priors = InstanceData(priors=anchors)
        labels = anchors.new_full((len(batch_gt), len(anchors)), self.num_classes, dtype=torch.long)
        weights = anchors.new_ones(labels.shape)
        boxes = anchors.new_zeros((*labels.shape, 4))
        for i, (gt, ignore) in enumerate(zip(batch_gt, batch_ignore)):
            # Strangers' labels have boxes without an area; to fit one, the loss would be infinite.
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

    The neck's ``in_channels`` and ``widen_factor`` come from the backbone, the head's ``in_channels``
    from the neck; a list given all the same must fit.

    Args:
        backbone: A backbone with ``out_channels``, such as :class:`mnv2_backbone.MobileNetV2`.
        neck: :class:`SSDLiteNeck`.
        bbox_head: :class:`SSDLiteHead`.
        train_cfg, test_cfg: Of the head.
        data_preprocessor, init_cfg: As everywhere in mm.

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
