"""Trained models as plain functions of pictures: what every fast form of them is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..backbone import MobileNetV2
from ..layers import same_padding
from .fold import fold_input, fold_norms

Size = tuple[int, int]


class PictureBackbone(nn.Module):
    """A backbone that takes pictures as they are: bytes, channels last, in OpenCV's order.

    The normalisation of the data preprocessor is folded into the first convolution; the pictures are padded with
    the mean, which stands for the zeros that the trained network pads with.

    Args:
        backbone: Its norms folded; changed in place.
        preprocessor: mm's data preprocessor: ``mean``, ``std`` and the channels' order.
        least: Pictures are padded at the right and at the bottom to this (height, width), if they are smaller.
    """

    def __init__(self, backbone: MobileNetV2, preprocessor: nn.Module, least: Size = (0, 0)) -> None:
        super().__init__()
        self.backbone = backbone
        self.least = least
        self.first = getattr(backbone, backbone.plan.layers[0].name)
        swap = getattr(preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False))
        mean = getattr(preprocessor, 'mean', torch.zeros(3, 1, 1)).flatten()
        std = getattr(preprocessor, 'std', torch.ones(3, 1, 1)).flatten()
        conv = self.first.conv
        if swap:
            conv.weight.data = conv.weight.data.flip(1).contiguous(memory_format=torch.channels_last)
            mean, std = mean.flip(0), std.flip(0)
        # One number pads all channels: where their means differ, the differences are taken off before.
        self.level = float(mean[0])
        self.differs = bool((mean != mean[0]).any())
        self.shift: Tensor
        self.register_buffer('shift', (mean - mean[0]).view(1, -1, 1, 1), persistent=False)
        fold_input(conv, torch.full_like(mean, self.level), std)
        self.explicit = conv.padding
        self.same = self.first.pad_args if self.first.pads else None
        self.first.pads, conv.padding = False, (0, 0)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps.

        Args:
            pictures: (N, H, W, 3), 0 to 255, bytes or not.

        Returns:
            The backbone's outputs, (N, C, h, w) each.
        """
        x = pictures.permute(0, 3, 1, 2).to(self.first.conv.weight.dtype)
        if self.differs:
            x = x - self.shift
        height, width = (max(size, least) if least else size for size, least in zip(x.shape[2:], self.least))
        padding = []
        for size, have, own in ((width, x.shape[3], self.explicit[1]), (height, x.shape[2], self.explicit[0])):
            before, after = same_padding(size, *self.same) if self.same else (own, own)
            padding += [before, after + size - have]
        return self.backbone(F.pad(x, padding, value=self.level))


class Detector(nn.Module):
    """An SSDLite as a function of pictures of one size.

    Args:
        model: :class:`mnv2_backbone.ssdlite.SSDLite`, trained.
        size: (height, width) of the pictures.
    """

    anchors: Tensor

    def __init__(self, model: BaseModel, size: Size) -> None:
        super().__init__()
        model = fold_norms(model)
        self.size = size
        self.body = PictureBackbone(model.backbone, model.data_preprocessor)
        self.neck: Any = model.neck
        self.head: Any = model.bbox_head
        with torch.no_grad():
            maps = self.neck(self.body(torch.zeros(1, *size, 3)))
            sizes = [tuple(x.shape[2:]) for x in maps]
            self.register_buffer('anchors', torch.cat(self.head.prior_generator.grid_priors(sizes, size)))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Finds boxes.

        Args:
            pictures: (N, height, width, 3), 0 to 255.

        Returns:
            boxes (N, anchors, 4): x1, y1, x2, y2 in pixels, not yet thinned out; scores (N, anchors, classes).
        """
        logits, codes = self.raw(pictures)
        return self.decode(self.anchors.expand(codes.shape[0], -1, -1), codes), self.head.scores(logits)

    def raw(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures as for :meth:`forward` to logits (N, anchors, classes + 1) and box codes (N, anchors, 4)."""
        logits, codes = self.head.flatten(*self.head(self.neck(self.body(pictures))))
        return logits, codes

    def decode(self, anchors: Tensor, codes: Tensor) -> Tensor:
        """Box codes (N, n, 4) at anchors (N, n, 4) to boxes (N, n, 4)."""
        boxes = self.head.bbox_coder.decode(anchors.reshape(-1, 4), codes.reshape(-1, 4), max_shape=self.size)
        return boxes.view_as(codes)


class Segmenter(nn.Module):
    """A DeepLab as a function of pictures.

    Args:
        model: :class:`mnv2_backbone.deeplab.DeepLab`, trained, tested on whole pictures.
        least: Pictures are padded to this (height, width); the size in the data preprocessor's ``test_cfg`` by default.

    Raises:
        ValueError: The model is tested by a sliding window, or pads to a multiple of a number.
    """

    def __init__(self, model: BaseModel, least: Size | None = None) -> None:
        super().__init__()
        options = model.data_preprocessor.test_cfg or {}
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise ValueError(f"test_cfg.mode={model.test_cfg.mode!r}: only 'whole' can be deployed")
        if options.get('size_divisor') is not None:
            raise ValueError('data_preprocessor.test_cfg.size_divisor: only size can be deployed')
        model = fold_norms(model)
        self.least: Size = tuple(least or options.get('size') or (0, 0))
        self.body = PictureBackbone(model.backbone, model.data_preprocessor, self.least)
        self.head: Any = model.decode_head

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (N, H, W, 3), 0 to 255, to logits (N, classes, h, w) of the padded picture, at the head's stride."""
        return self.head(self.body(pictures))

    def labels(self, logits: Tensor, size: Sequence[int], original: Sequence[int] | None = None) -> Tensor:
        """Turns logits into label maps, as mmseg does.

        Args:
            logits: (N, classes, h, w).
            size: (H, W) of the pictures that went in.
            original: (H, W) of the pictures before they were resized, if they were.

        Returns:
            (N, H, W), bytes.
        """
        height, width = size
        full = [max(length, least) for length, least in zip(size, self.least)]
        corners = self.head.align_corners
        logits = F.interpolate(logits.float(), full, mode='bilinear', align_corners=corners)[:, :, :height, :width]
        if original is not None:
            logits = F.interpolate(logits, tuple(original), mode='bilinear', align_corners=corners)
        return logits.argmax(1).to(torch.uint8)


class HalfBackbone(nn.Module):
    """A backbone that computes in bfloat16 and takes and gives float32.

    Args:
        backbone: Changed in place.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.bfloat16()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to the backbone's outputs."""
        return tuple(y.float() for y in self.backbone(x.bfloat16()))


def in_bfloat16(network: nn.Module) -> nn.Module:
    """The same network in bfloat16; what it takes, anchors, boxes, scores and a backbone's maps stay in float32.

    Args:
        network: :class:`Detector`, :class:`Segmenter` or a backbone; changed in place.
    """
    if not isinstance(network, (Detector, Segmenter)):
        return HalfBackbone(network)
    for part in network.children():
        part.bfloat16()
    return network
