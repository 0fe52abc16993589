"""Whole networks for export: from pictures of any size, as bytes, to boxes and scores or label maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ..layers import ConvNormAct, pad_same
from .fold import settle_padding
from .network import Detector, Segmenter, Size
from .recipe import Recipe

#: So many candidates go into the graph's NMS where the config sets no limit.
MOST_CANDIDATES = 1000


def bilinear_by_torch(x: Tensor, height: int, width: int, centres: bool) -> Tensor:
    """Resizes (N, C, H, W) to (N, C, height, width); values are read at pixel centres, or else at corners."""
    if centres:
        return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)

    def taps(have: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        # positions as fractions of whole numbers: no rounding puts one beside the pixel it hits
        at = torch.arange(wanted, device=x.device) * have
        low = at // wanted
        return low, (low + 1).clamp(max=have - 1), (at % wanted).float() / wanted

    top, bottom, y = taps(x.shape[2], height)
    left, right, z = taps(x.shape[3], width)
    rows = x[:, :, top] + (x[:, :, bottom] - x[:, :, top]) * y[:, None]
    return rows[..., left] + (rows[..., right] - rows[..., left]) * z


# One operator each, so that each export format can have its own.
bilinear = torch.library.custom_op('mnv2_backbone::bilinear', bilinear_by_torch, mutates_args=())


@bilinear.register_fake
def _(x: Tensor, height: int, width: int, centres: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], height, width)


def resize(pictures: Tensor, size: Size, sampling: str) -> Tensor:
    """Resizes bilinearly within a graph.

    Args:
        pictures: (N, H, W, 3), bytes.
        size: (height, width) wanted.
        sampling: ``'opencv'``, rounded to whole values as there (single values may differ by 1 from OpenCV's
            fixed-point arithmetic), or ``'tensorflow'``.

    Returns:
        (N, height, width, 3), float32.
    """
    resized = bilinear(pictures.permute(0, 3, 1, 2).float(), *size, sampling == 'opencv')
    return (resized.round() if sampling == 'opencv' else resized).permute(0, 2, 3, 1)


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


def conv_same_by_torch(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """A convolution with SAME padding, for any size: exchange formats have it as an option of theirs."""
    return F.conv2d(pad_same(x, weight.shape[2], stride, 1), weight, bias, stride, groups=groups)


conv_same = torch.library.custom_op('mnv2_backbone::conv_same', conv_same_by_torch, mutates_args=())


@conv_same.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    batch, _, height, width = x.shape
    return x.new_empty(batch, weight.shape[0], (height + stride - 1) // stride, (width + stride - 1) // stride)


class SameConv(nn.Module):
    """A convolution that pads as :func:`conv_same`.

    Args:
        conv: Folded: with a bias, without padding and atrous rate.
        level: The value to pad with.
    """

    def __init__(self, conv: nn.Conv2d, level: float = 0.0) -> None:
        super().__init__()
        assert conv.bias is not None
        self.level, self.stride, self.groups = level, conv.stride[0], conv.groups
        self.weight = conv.weight
        self.bias = nn.Parameter(conv.bias + level * conv.weight.sum((1, 2, 3)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        x = x - self.level if self.level else x
        return conv_same(x, self.weight, self.bias, self.stride, self.groups)


def free_padding(segmenter: Segmenter) -> None:
    """Lets the format pad SAME convolutions, so that the graph does not compute padding from sizes; in place."""
    body = segmenter.body
    if body.same:
        body.first.conv, body.same = SameConv(body.first.conv, body.level), None
    for module in segmenter.modules():
        if isinstance(module, ConvNormAct) and module.pads and module.pad_args[2] == 1:
            module.conv, module.pads = SameConv(module.conv), False


class WholeDetector(nn.Module):
    """A detector for export.

    Args:
        detector: The network; changed in place, to take pictures of its size only.
        recipe: How pictures are resized and boxes thinned out.
        nms: Whether boxes are thinned out inside.
    """

    inputs = ('pictures',)

    def __init__(self, detector: Detector, recipe: Recipe, nms: bool) -> None:
        super().__init__()
        settle_padding(detector, torch.zeros(1, *detector.size, 3))
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
            return self.detector.decode(self.detector.anchors.expand(codes.shape[0], -1, -1), codes) * scale, scores
        # Decoding begins after the choice of candidates.
        classes = scores.shape[2]
        limit = self.test_cfg.get('nms_pre', -1)
        scores, order = scores.flatten(1).topk(limit if limit > 0 else MOST_CANDIDATES, dim=1)
        labels = order % classes
        at = (order // classes)[:, :, None].expand(-1, -1, 4)
        anchors = self.detector.anchors.expand(codes.shape[0], -1, -1)
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
        segmenter: The network; changed in place, where the recipe resizes to take pictures of that size only.
        recipe: How pictures are resized, if they are.
    """

    inputs = ('pictures',)
    outputs = ('labels',)

    def __init__(self, segmenter: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        if recipe.size is None:
            free_padding(segmenter)
        else:
            settle_padding(segmenter, torch.zeros(1, *recipe.size, 3))
        self.segmenter, self.size, self.sampling = segmenter, recipe.size, recipe.sampling

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        """Pictures (N, H, W, 3), BGR, bytes, to label maps (N, H, W), bytes."""
        have = pictures.shape[1:3]
        if self.size is None:
            return (self.segmenter.labels(self.segmenter(pictures), have),)
        logits = self.segmenter(resize(pictures, self.size, self.sampling))
        return (self.segmenter.labels(logits, self.size, have),)
