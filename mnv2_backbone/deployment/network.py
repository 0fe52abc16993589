"""Trained models as plain functions of images: what every deployed form of them is made from."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

from ..errors import UserError
from ..network.backbone import MobileNetV2
from ..network.fit import check_meta, load_into
from ..network.layers import SamePadding, is_plain
from .folding import fold_input, fold_norms, keep_outputs
from .recipe import Size, dataset_meta


def load_trained(cfg: Config, weights: str) -> tuple[BaseModel, dict[str, Any]]:
    """Builds the model of a config, in evaluation mode, and loads weights that must fit it as a whole.

    Returns:
        The model, and names and colours of its ``classes``: those that it was trained on, or those of the config's test
        data set if the checkpoint does not say.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = copy.deepcopy(cfg.model)
    if 'init_cfg' in model_cfg.backbone:
        model_cfg.backbone.init_cfg = None  # all weights come from the checkpoint
    model = MODELS.build(model_cfg)
    checkpoint = _load_checkpoint(weights, map_location='cpu')
    check_meta(model.backbone, checkpoint.get('meta'))
    load_into(model, checkpoint.get('state_dict', checkpoint))
    meta = {**dataset_meta(cfg), **((checkpoint.get('meta') or {}).get('dataset_meta') or {})}
    head: Any = getattr(model, 'bbox_head', None) or getattr(model, 'decode_head', None)
    if head is not None and len(meta['classes']) != head.num_classes:
        raise UserError(
            f'{weights}: the model has {head.num_classes} classes, but there are names for {len(meta["classes"])}: set '
            'metainfo=dict(classes=(...)) of the data set, or num_classes of the head, to the same number'
        )
    return model.eval(), meta


def check_deployable(model: nn.Module) -> None:
    """Raises ValueError for models that are more, or others, than what :class:`Detector` and :class:`Segmenter` run."""
    head = getattr(model, 'bbox_head', None) or getattr(model, 'decode_head', None)
    kinds = {base.__name__ for base in type(head).__mro__}
    known = 'SingleShotHead' in kinds or ('BaseDecodeHead' in kinds and not getattr(model, 'with_neck', False))
    if not known or not isinstance(getattr(model, 'backbone', None), MobileNetV2):
        raise ValueError(
            f'{type(model).__name__}: only MobileNetV2, SSDLite, FPNLite and DeepLab of this package can be deployed'
        )
    backbone: Any = model.backbone
    if (channels := backbone.plan.layers[0].in_channels) != 3:
        raise ValueError(f'backbone.in_channels={channels}: only detectors and segmenters of 3 can be deployed')


class MeanPadding(nn.Module):
    """Pads images before normalization with the mean, in place of the zeros that the network pads with after it.

    It takes over the padding of the first convolution, ``same`` or its own. Smaller images are padded to ``min_size``,
    at the right and at the bottom.
    """

    def __init__(self, pad_value: float, conv: nn.Conv2d, same: nn.Module, min_size: Size) -> None:
        super().__init__()
        self.pad_value, self.min_size = pad_value, min_size
        self.same = same if isinstance(same, SamePadding) else None
        self.own: Any = conv.padding
        conv.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H + p, W + q)."""
        padding: list[int] = []
        for axis in (1, 0):
            have = x.shape[2 + axis]
            size = max(have, self.min_size[axis]) if self.min_size[axis] else have
            before, after = self.same.sides(size) if self.same else (self.own[axis],) * 2
            padding += [before, after + size - have]
        return F.pad(x, padding, value=self.pad_value)


class ImageBackbone(nn.Module):
    """A backbone, its norms folded, that takes images as they are: uint8, channels last, in OpenCV's order.

    The normalization of mm's data preprocessor is folded into the first convolution; the backbone is changed in place.
    """

    def __init__(self, backbone: MobileNetV2, preprocessor: nn.Module, min_size: Size = (0, 0)) -> None:
        super().__init__()
        self.backbone = backbone
        self.first = getattr(backbone, backbone.plan.layers[0].name)
        swap = getattr(preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False))
        mean = getattr(preprocessor, 'mean', torch.zeros(3, 1, 1)).flatten()
        std = getattr(preprocessor, 'std', torch.ones(3, 1, 1)).flatten()
        conv = self.first.conv
        if not is_plain(conv):
            raise ValueError(f'backbone.conv_cfg: {type(conv).__name__} cannot be deployed, only Conv2d')
        if swap:
            conv.weight.data = conv.weight.data.flip(1).contiguous(memory_format=torch.channels_last)
            mean, std = mean.flip(0), std.flip(0)
        # All channels are padded with one value: if their means differ, the differences are subtracted first.
        pad_value = float(mean[0])
        self.differs = bool((mean != mean[0]).any())
        self.shift: Tensor
        self.register_buffer('shift', (mean - mean[0]).view(1, -1, 1, 1), persistent=False)
        fold_input(conv, torch.full_like(mean, pad_value), std)
        self.pad = MeanPadding(pad_value, conv, self.first.pad, min_size)
        self.first.pad = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, H, W, 3), 0 to 255, uint8 or not, to the backbone's outputs, (N, C, h, w) each."""
        x = images.permute(0, 3, 1, 2).to(self.first.conv.weight.dtype)
        if self.differs:
            x = x - self.shift
        return self.backbone(self.pad(x))


class Detector(nn.Module):
    """An SSDLite or FPNLite as a function of images of one size, (height, width)."""

    anchors: Tensor

    def __init__(self, model: BaseModel, size: Size) -> None:
        super().__init__()
        check_deployable(model)
        divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
        if any(side % divisor for side in size):
            raise ValueError(
                f'data_preprocessor.pad_size_divisor={divisor}: the input size {size} is no multiple of it'
            )
        model = fold_norms(model)
        self.size = size
        self.body = ImageBackbone(model.backbone, model.data_preprocessor)
        self.neck: Any = model.neck
        self.head: Any = model.bbox_head
        if self.head.score_converter == 'sigmoid':  # the background's score is not used
            for predictor in self.head.cls_convs:
                keep_outputs(predictor[1], self.head.num_scores, range(self.head.num_classes))
            self.head.num_scores = self.head.num_classes
        with torch.no_grad():
            maps = self.neck(self.body(torch.zeros(1, *size, 3)))
            sizes = [tuple(x.shape[2:]) for x in maps]
            self.register_buffer('anchors', torch.cat(self.head.prior_generator.grid_priors(sizes, size)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, h, w, 3) to boxes (N, anchors, 4) in pixels and scores (N, anchors, classes), before NMS."""
        logits, codes = self.raw(images)
        return self.decode(self.anchors.expand(codes.shape[0], -1, -1), codes), self.head.scores(logits)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images as for :meth:`forward` to logits (N, anchors, num_scores) and box codes (N, anchors, 4)."""
        logits, codes = self.head.flatten(*self.head(self.neck(self.body(images))))
        return logits, codes

    def decode(self, anchors: Tensor, codes: Tensor) -> Tensor:
        """Box codes (N, n, 4) at anchors (N, n, 4) to boxes (N, n, 4)."""
        boxes: Tensor = self.head.decode(anchors.reshape(-1, 4), codes.reshape(-1, 4), self.size)
        return boxes.view_as(codes)


class Segmenter(nn.Module):
    """A DeepLab, tested on whole images, as a function of images.

    Images are padded to ``min_size``, by default the size in the data preprocessor's ``test_cfg``.

    Raises:
        ValueError: The model is tested by a sliding window, pads to a multiple of a number or with another value than
            0, or has more than 256 classes.
    """

    def __init__(self, model: BaseModel, min_size: Size | None = None) -> None:
        super().__init__()
        check_deployable(model)
        options = model.data_preprocessor.test_cfg or {}
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise ValueError(f"test_cfg.mode={model.test_cfg.mode!r}: only 'whole' can be deployed")
        if options.get('size_divisor') is not None:
            raise ValueError('data_preprocessor.test_cfg.size_divisor: only size can be deployed')
        if value := getattr(model.data_preprocessor, 'pad_val', 0):
            raise ValueError(f'data_preprocessor.pad_val={value}: only 0 can be deployed')
        if (classes := model.decode_head.num_classes) > 256:
            raise ValueError(f'decode_head.num_classes={classes}: at most 256 can be deployed, in label maps of uint8')
        model = fold_norms(model)
        self.min_size: Size = tuple(min_size or options.get('size') or (0, 0))
        self.body = ImageBackbone(model.backbone, model.data_preprocessor, self.min_size)
        self.head: Any = model.decode_head

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, H, W, 3), 0 to 255, to logits (N, classes, h, w) of the padded images, at the head's stride."""
        return self.head(self.body(images))

    def labels(self, logits: Tensor, size: Sequence[int], original: Sequence[int] | None = None) -> Tensor:
        """Turns logits (N, classes, h, w) into label maps (N, H, W), uint8, as mmseg does.

        ``size`` is that of the images that went in, ``original`` that before they were resized, if they were.
        """
        full = [max(length, min_size) for length, min_size in zip(size, self.min_size)]
        return label_map(logits, full, size, original, self.head.align_corners, self.head.threshold)


def label_map(
    logits: Tensor,
    full: Sequence[int],
    inside: Sequence[int],
    original: Sequence[int] | None,
    corners: bool,
    threshold: Any,
) -> Tensor:
    """Logits (N, classes, h, w) to label maps (N, H, W), uint8, as mmseg does.

    They are enlarged to ``full``, cut to ``inside``, and resized to ``original``, each (height, width).
    """
    height, width = inside
    logits = F.interpolate(logits.float(), tuple(full), mode='bilinear', align_corners=corners)[:, :, :height, :width]
    if original is not None:
        logits = F.interpolate(logits, tuple(original), mode='bilinear', align_corners=corners)
    if logits.shape[1] == 1:
        return (logits[:, 0].sigmoid() > threshold).to(torch.uint8)
    return logits.argmax(1).to(torch.uint8)


class BFloat16Backbone(nn.Module):
    """A backbone, changed in place, that computes in bfloat16, with inputs and outputs in float32."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.bfloat16()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to the backbone's outputs."""
        return tuple(y.float() for y in self.backbone(x.bfloat16()))


def in_bfloat16(network: nn.Module) -> nn.Module:
    """Makes a detector, segmenter or backbone compute in bfloat16, in place; inputs and outputs stay as they are."""
    if not isinstance(network, (Detector, Segmenter)):
        return BFloat16Backbone(network)
    for part in network.children():
        part.bfloat16()
    return network
