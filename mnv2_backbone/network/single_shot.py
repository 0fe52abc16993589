"""What the heads of SSD detectors have in common: targets, the loss of boxes, scores, detections."""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import InstanceData
from torch import Tensor

from .anchors import Size
from .layers import Cfg, InitCfg, as_init_cfg

RELU6 = dict(type='mnv2_backbone.ReLU6')
#: Google's box code: offsets relative to the anchor's sides, times 10 (centre) and 5 (logarithm of the sides).
BOX_CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
_TEST_OPTIONS = ('score_thr', 'nms_pre', 'nms', 'max_per_img', 'min_bbox_size')


class SingleShotHead(BaseDenseHead):
    """A head of class scores and box codes at every anchor; subclasses have the layers and the loss of classes.

    The loss is computed for the whole batch at once and normalized by the matches of all processes, so that N processes
    train as one does. Both score converters predict ``num_classes + 1`` scores, the background last.

    Args:
        num_classes: Classes without the background.
        in_channels: Channels of each map; :class:`SSDLite` fills it from the neck.
        anchor_generator, bbox_coder: MMDetection task utilities.
        score_converter: ``'softmax'`` or ``'sigmoid'``.
        train_cfg: ``assigner``, ``smoothl1_beta``, and what the loss of classes takes.
        test_cfg: ``score_thr``, ``nms_pre`` (-1: all), ``nms``, ``max_per_img``, ``min_bbox_size``.
        init_cfg: As in mmengine.

    Raises:
        ValueError: ``score_converter`` or an option in ``test_cfg`` is unknown, or the maps and the anchor levels
            differ in number.
    """

    any_format_in = True
    #: How far boxes may reach beyond the image before NMS, in its sides. After NMS they are clipped to the image.
    margin = 0
    #: What the loss of boxes is multiplied by.
    box_weight = 1.0

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        anchor_generator: Cfg,
        score_converter: str,
        init_cfg: InitCfg,
        bbox_coder: Cfg = BOX_CODER,
        train_cfg: ConfigDict | None = None,
        test_cfg: ConfigDict | None = None,
    ) -> None:
        super().__init__(as_init_cfg(init_cfg))
        if score_converter not in ('softmax', 'sigmoid'):
            raise ValueError(f"score_converter={score_converter!r}: allowed are 'softmax' and 'sigmoid'")
        if unknown := [option for option in test_cfg or () if option not in _TEST_OPTIONS]:
            raise ValueError(f'test_cfg.{unknown[0]}: no such option; allowed are {", ".join(_TEST_OPTIONS)}')
        if test_cfg and test_cfg.get('max_per_img', 1) < 1:
            raise ValueError(f'test_cfg.max_per_img={test_cfg["max_per_img"]}: allowed are integers from 1')
        self.num_classes = num_classes
        #: Scores of an anchor. Without the background's, which sigmoid scores do not need, for deployment.
        self.num_scores = num_classes + 1
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

    @abstractmethod
    def classification_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The loss of the classes of a batch, a sum: logits (N, P, num_classes + 1), labels (N, P), weights (N, P)."""

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
            anchors,
            batch_gt_instances,
            batch_gt_instances_ignore or [None] * len(batch_gt_instances),
            _input_size(batch_img_metas),
        )
        positive = labels < self.num_classes
        loss_cls = self.classification_loss(logits, labels, weights)
        targets = self.bbox_coder.encode(anchors.expand(len(boxes), -1, 4)[positive], boxes[positive])
        beta = self.train_cfg.get('smoothl1_beta', 1.0)
        loss_bbox = F.smooth_l1_loss(codes[positive], targets, beta=beta, reduction='sum')

        total = positive.sum().float()
        all_reduce(total)
        total = total.clamp(min=1) / get_world_size()
        return dict(loss_cls=loss_cls / total, loss_bbox=self.box_weight * loss_bbox / total)

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
            height, width = meta['img_shape'][:2]
            # mmcv keeps classes apart by moving their boxes, which works for coordinates from 0
            ends = codes.new_tensor([width, height] * 2)
            shift = ends * self.margin if with_nms else torch.zeros_like(ends)
            for taken in numbers_for_nms(len(top), cfg) if with_nms else [len(top)]:
                boxes = self.decode(kept['anchors'][:taken], kept['code'][:taken], (height, width))
                found = InstanceData(bboxes=boxes + shift, scores=top[:taken], labels=classes[:taken])
                found = self._bbox_post_process(found, cfg, rescale, with_nms, meta)
                if len(found) >= cfg.get('max_per_img', -1):
                    break
            if self.margin and with_nms:
                scale = ends.new_tensor(meta['scale_factor'] if rescale else (1.0, 1.0)).repeat(2)
                found.bboxes = (found.bboxes - shift / scale).clamp(min=0).minimum(ends / scale)
            results.append(found)
        return results

    def decode(self, anchors: Tensor, codes: Tensor, size: Size) -> Tensor:
        """Box codes (n, 4) at anchors (n, 4) to boxes (n, 4), clipped to an image (H, W) and the margin around it."""
        if not self.margin:
            return self.bbox_coder.decode(anchors, codes, max_shape=size)
        shift = anchors.new_tensor([size[1], size[0]] * 2) * self.margin
        whole = [side * (1 + 2 * self.margin) for side in size]
        return self.bbox_coder.decode(anchors + shift, codes, max_shape=whole) - shift

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (..., num_scores) to scores (..., num_classes)."""
        converted = logits.softmax(-1) if self.score_converter == 'softmax' else logits.sigmoid()
        return converted[..., : self.num_classes]

    def flatten(self, cls_scores: list[Tensor], bbox_preds: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The outputs of :meth:`forward` as logits (N, anchors, num_scores) and codes (N, anchors, 4), float32."""

        def flat(maps: list[Tensor], channels: int) -> Tensor:
            return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels) for x in maps], 1).float()

        return flat(cls_scores, self.num_scores), flat(bbox_preds, 4)

    def _anchors(self, maps: list[Tensor], batch_img_metas: list[dict]) -> Tensor:
        sizes = [tuple(x.shape[2:]) for x in maps]
        return torch.cat(self.prior_generator.grid_priors(sizes, _input_size(batch_img_metas), device=maps[0].device))

    def _match(self, anchors: Tensor, gt: InstanceData, ignore: InstanceData | None, size: Size) -> Tensor:
        """The number from 1 of the object of each anchor (P,), in an image of (H, W); 0: background, -1: ignored."""
        found: Tensor = self.assigner.assign(InstanceData(priors=anchors), gt, ignore).gt_inds
        return found

    def _targets(
        self, anchors: Tensor, batch_gt: list[InstanceData], batch_ignore: Sequence[InstanceData | None], size: Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N, P), weights (N, P), and the matched box (N, P, 4) of each anchor."""
        labels = anchors.new_full((len(batch_gt), len(anchors)), self.num_classes, dtype=torch.long)
        weights = anchors.new_ones(labels.shape)
        boxes = anchors.new_zeros((*labels.shape, 4))
        for i, (gt, ignore) in enumerate(zip(batch_gt, batch_ignore)):
            # Some data sets have boxes without an area; the loss of one would be infinite.
            gt = gt[(gt.bboxes[:, 2:] > gt.bboxes[:, :2]).all(1)]
            match = self._match(anchors, gt, ignore, size)
            weights[i, match < 0] = 0
            positive = match > 0
            labels[i, positive] = gt.labels[match[positive] - 1]
            boxes[i, positive] = gt.bboxes[match[positive] - 1]
        return labels, weights, boxes


def numbers_for_nms(count: int, cfg: Mapping[str, Any]) -> Iterator[int]:
    """To how many of ``count`` boxes, the highest-scoring first, NMS is applied until ``max_per_img`` remain.

    A box is only ever suppressed by boxes with a higher score. So the rest is needed only if too few of the first
    remain: with a low threshold, that is a small part of the work.
    """
    taken = 4 * cfg.get('max_per_img', -1)
    if taken > 0 and cfg['nms'].get('type', 'nms') == 'nms':  # others change scores: they need all boxes
        while taken < count:
            yield taken
            taken *= 4
    yield count


def _input_size(batch_img_metas: Sequence[dict]) -> Size:
    """(H, W) of a batch."""
    height, width = batch_img_metas[0].get('batch_input_shape', batch_img_metas[0]['img_shape'])[:2]
    return height, width
