"""Whole networks for export: from pictures of any size, as bytes, to boxes and scores or label maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from .network import Detector, Segmenter, Size
from .recipe import Recipe

#: So many candidates go into the graph's NMS where the config sets no limit.
MOST_CANDIDATES = 1000


def resize(pictures: Tensor, size: Size, sampling: str) -> Tensor:
    """Resizes bilinearly within a graph; pictures that have the size already come out as they went in.

    Args:
        pictures: (N, H, W, 3), bytes.
        size: (height, width) wanted.
        sampling: ``'opencv'``, rounded to whole values as there (single values may differ by 1 from OpenCV's
            fixed-point arithmetic), or ``'tensorflow'``.

    Returns:
        (N, height, width, 3), float32.
    """

    def taps(have: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        # Positions as fractions of whole numbers: they stay exact where a runtime computes in bfloat16.
        at = torch.arange(wanted, device=pictures.device)
        if sampling == 'tensorflow':
            at, parts = at * have, wanted
        else:
            at, parts = ((2 * at + 1) * have - wanted).clamp(min=0), 2 * wanted
        low = at // parts
        return low, (low + 1).clamp(max=have - 1), (at % parts).float() / parts

    top, bottom, y = taps(pictures.shape[1], size[0])
    left, right, x = taps(pictures.shape[2], size[1])
    above, below = pictures[:, top].float(), pictures[:, bottom].float()
    rows = above + (below - above) * y[:, None, None]
    first, second = rows[:, :, left], rows[:, :, right]
    resized = first + (second - first) * x[:, None]
    return resized if sampling == 'tensorflow' else resized.round()


@torch.library.custom_op('mnv2_backbone::nms_keeps', mutates_args=())
def nms_keeps(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (N, n, 4) with scores (N, n) stay when surer ones that overlap suppress them: (N, n), bool.

    One operator, so that each export format can have its own.
    """
    keeps = torch.zeros_like(scores, dtype=torch.bool)
    for keep, box, score in zip(keeps, boxes, scores):
        keep[torchvision.ops.nms(box, score, iou_threshold)] = True
    return keeps


@nms_keeps.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class WholeDetector(nn.Module):
    """A detector for export.

    Args:
        detector: The network.
        recipe: How pictures are resized and boxes thinned out.
        nms: Whether boxes are thinned out inside.
    """

    inputs = ('pictures',)

    def __init__(self, detector: Detector, recipe: Recipe, nms: bool) -> None:
        super().__init__()
        self.detector, self.sampling, self.nms = detector, recipe.sampling, nms
        self.test_cfg: Mapping[str, Any] = recipe.test_cfg
        self.outputs = ('boxes', 'scores', 'labels') if nms else ('boxes', 'scores')

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Detects.

        Args:
            pictures: (N, H, W, 3), BGR, bytes.

        Returns:
            Without NMS boxes (N, anchors, 4), x1, y1, x2, y2 in pixels of the pictures, and scores
            (N, anchors, classes). With it boxes (N, n, 4), scores (N, n) and labels (N, n), the surest first,
            n being ``max_per_img``; what is beyond the last detection has score 0.
        """
        height, width = self.detector.size
        logits, codes = self.detector.raw(resize(pictures, (height, width), self.sampling))
        scores = self.detector.head.scores(logits)
        y, x = pictures.shape[1] / height, pictures.shape[2] / width
        ones = torch.ones(2, dtype=torch.float32, device=scores.device)
        scale = torch.cat([ones[:1] * x, ones[:1] * y, ones[:1] * x, ones[:1] * y])
        if not self.nms:
            return self.detector.decode(self.detector.anchors.expand(len(codes), -1, -1), codes) * scale, scores
        # Decoding begins after the choice of candidates.
        classes = scores.shape[2]
        limit = self.test_cfg.get('nms_pre', -1)
        scores, order = scores.flatten(1).topk(limit if limit > 0 else MOST_CANDIDATES, dim=1)
        labels = order % classes
        at = (order // classes)[:, :, None].expand(-1, -1, 4)
        anchors = self.detector.anchors.expand(len(codes), -1, -1)
        boxes = self.detector.decode(anchors.gather(1, at), codes.gather(1, at))
        # Boxes of different classes are moved apart: they do not suppress each other.
        apart = boxes + (labels * (max(height, width) + 1)).to(boxes)[:, :, None]
        keeps = nms_keeps(apart, scores, self.test_cfg['nms']['iou_threshold'])
        scores = torch.where(keeps & (scores > self.test_cfg['score_thr']), scores, 0.0)
        scores, order = scores.topk(self.test_cfg['max_per_img'], dim=1)
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        return boxes * scale, scores, labels.gather(1, order)


class WholeSegmenter(nn.Module):
    """A segmenter for export.

    Args:
        segmenter: The network.
        recipe: How pictures are resized.
    """

    inputs = ('pictures',)
    outputs = ('labels',)

    def __init__(self, segmenter: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.segmenter, self.size, self.sampling = segmenter, recipe.size, recipe.sampling

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        """Pictures (N, H, W, 3), BGR, bytes, to label maps (N, H, W), bytes."""
        have = pictures.shape[1:3]
        if self.size is None:
            return (self.segmenter.labels(self.segmenter(pictures), have),)
        logits = self.segmenter(resize(pictures, self.size, self.sampling))
        return (self.segmenter.labels(logits, self.size, have),)
