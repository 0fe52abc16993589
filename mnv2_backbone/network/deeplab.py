"""DeepLabv3-lite and Lite R-ASPP on MobileNetV2: decode heads, and the segmenter that fits them to the backbone.

Sources: ``deeplab/{model,common,core/feature_extractor}.py`` of TensorFlow's models; arXiv 1801.04381, section 6.3;
arXiv 1706.05587 and 1802.02611 (atrous branches, skip); arXiv 1905.02244, section 6.4 (LR-ASPP, and R-ASPP, which
is the same network as the lite head).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..errors import UserError, listing
from ..registry import MODELS
from .layers import Cfg, ConvNormAct, InitCfg, as_init_cfg, at_least_0

#: Batch norm of the head: DeepLab's epsilon, over all processes. DeepLab's decay of 0.9997 (momentum 0.0003) needs
#: thousands of iterations to settle, so this is the backbone's.
DEEPLAB_NORM = dict(type='mnv2_backbone.SyncBN', momentum=0.003, eps=1e-5)
#: slim's initialization of the convolutions, and DeepLab's of the logits.
DEEPLAB_INIT = (
    dict(
        type='Xavier',
        layer='Conv2d',
        distribution='uniform',
        override=dict(type='TruncNormal', name='conv_seg', std=0.01, a=-0.02, b=0.02),
    ),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1.0),
)
RELU = dict(type='ReLU')

#: The output stride for which the literature gives atrous rates and pooling windows.
_NOMINAL_STRIDE = 16


class LiteHead(BaseDecodeHead):
    """The base of the heads here: they take the last of the maps, and some a finer one before it.

    Args:
        in_channels: Channels of each map, the coarsest last; :class:`DeepLab` fills it from the backbone.
        channels: Width of the head.
        num_classes: Number of classes.
        output_stride: Pixels of the image per pixel of the last map; :class:`DeepLab` fills it from the backbone. Rates
            and windows, which the papers give for 16, follow it.
        in_index: Which maps of the backbone to take; all in their order by default.
        maps: How many maps the head uses.
        align_corners: How maps are resized; True as in TensorFlow's DeepLab.
        norm_cfg, act_cfg, init_cfg, **kwargs: As for mmseg's ``BaseDecodeHead``.

    Raises:
        ValueError: There are more or fewer maps than the head uses, or an option is out of range.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int = 256,
        *,
        num_classes: int,
        output_stride: int = _NOMINAL_STRIDE,
        in_index: int | Sequence[int] | None = None,
        maps: int = 1,
        norm_cfg: Cfg | None = DEEPLAB_NORM,
        act_cfg: Cfg | None = RELU,
        align_corners: bool = True,
        init_cfg: InitCfg = DEEPLAB_INIT,
        **kwargs: Any,
    ) -> None:
        widths = _tuple(in_channels)
        indices = tuple(range(len(widths))) if in_index is None else _tuple(in_index)
        if len(widths) != maps or len(indices) != maps:
            raise ValueError(
                f'in_channels={in_channels!r}, in_index={in_index!r}: with these options the head takes '
                f'{maps} map{"s, the finer one first" if maps > 1 else ""}'
            )
        if output_stride < 1:
            raise ValueError(f'output_stride={output_stride!r}: allowed are integers from 1')
        super().__init__(
            widths,
            channels,
            num_classes=num_classes,
            in_index=indices,
            input_transform='multiple_select',
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            align_corners=align_corners,
            init_cfg=as_init_cfg(init_cfg),
            **kwargs,
        )
        self.output_stride = output_stride
        if self.dropout_ratio > 0:  # TensorFlow drops single values, mmseg whole channels
            self.dropout = nn.Dropout(self.dropout_ratio)

    def _conv(self, inputs: int, outputs: int, **options: Any) -> ConvNormAct:
        build = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        return ConvNormAct(inputs, outputs, **{**build, **options})

    def _scaled(self, length: int) -> int:
        """A length on a map of output stride 16, on this map."""
        return max(length * _NOMINAL_STRIDE // self.output_stride, 1)

    def _resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, tuple(size), mode='bilinear', align_corners=self.align_corners)


@MODELS.register_module()
class DeepLabHead(LiteHead):
    """DeepLabv3's head, by default without atrous branches: the lite one of the MobileNetV2 paper.

    Image pooling beside a 1x1 convolution, concatenated, projected by a 1x1 convolution, then the logits.
    (MMSegmentation's ``ASPPHead`` projects by a 3x3 convolution, which alone has more weights than this whole network.)

    Args:
        in_channels: Channels of the map; with a skip (finer, coarse).
        channels: Width of each branch and of the projection.
        atrous_rates: One 3x3 branch for each rate, given for output stride 16 (the paper's (6, 12, 18)) and scaled to
            the one in use; none by default.
        separable: Makes every 3x3 convolution a depthwise and a 1x1 one.
        skip_channels: 0, or the channels to which the first of two maps is reduced, as in DeepLabv3+: it is then joined
            to the projection at its size and refined by two 3x3 convolutions. Choose it by ``backbone.out_indices``.
        **kwargs: As for :class:`LiteHead`.

    Raises:
        ValueError: An option is out of range or does not fit the maps.

    Examples:
        >>> head = DeepLabHead(320, num_classes=21).eval()
        >>> head((torch.rand(1, 320, 9, 12),)).shape
        torch.Size([1, 21, 9, 12])
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int = 256,
        *,
        atrous_rates: Sequence[int] = (),
        separable: bool = False,
        skip_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        if any(rate < 1 for rate in atrous_rates):
            raise ValueError(f'atrous_rates={tuple(atrous_rates)}: allowed are integers from 1')
        if skip_channels < 0:
            raise ValueError(f'skip_channels={skip_channels!r}: allowed are integers from 0 (no skip)')
        super().__init__(in_channels, channels, maps=2 if skip_channels else 1, **kwargs)
        self.separable = separable
        *finer, inputs = self.in_channels
        self.image_pool = self._conv(inputs, channels)
        self.aspp0 = self._conv(inputs, channels)
        self.branches = ['aspp0']
        for number, rate in enumerate(atrous_rates, start=1):
            self.branches.append(f'aspp{number}')
            self.add_module(self.branches[-1], self._spatial(inputs, channels, self._scaled(rate)))
        self.project = self._conv(channels * (1 + len(self.branches)), channels)
        if skip_channels:
            self.skip = self._conv(finer[0], skip_channels)
            self.refine = nn.Sequential(
                self._spatial(channels + skip_channels, channels), self._spatial(channels, channels)
            )

    def _spatial(self, inputs: int, outputs: int, rate: int = 1) -> nn.Module:
        if not self.separable:
            return self._conv(inputs, outputs, kernel=3, rate=rate)
        depthwise = self._conv(inputs, inputs, kernel=3, rate=rate, groups=inputs)
        return nn.Sequential(depthwise, self._conv(inputs, outputs))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, h, w) to logits (N, num_classes, h, w) at the size of the last map, or of the skip's."""
        *finer, x = self._transform_inputs(inputs)
        pooled = F.interpolate(self.image_pool(x.mean((2, 3), keepdim=True)), x.shape[2:], mode='nearest')
        y = self.project(torch.cat([pooled, *(getattr(self, name)(x) for name in self.branches)], 1))
        for low in finer:
            y = self.refine(torch.cat([self._resize(y, low.shape[2:]), self.skip(low)], 1))
        return self.cls_seg(y)


@MODELS.register_module()
class LRASPP(LiteHead):
    """Lite R-ASPP, MobileNetV3's head: pooling gates the map, a finer map adds its own logits.

    (MMSegmentation's ``LRASPPHead`` has one more skip, convolutions around each, and fails on maps smaller than its
    window.)

    Args:
        in_channels: Channels of the (finer, coarse) maps.
        channels: Width of the gated map, the paper's F: 256 or 128.
        pool_size, pool_stride: Window (h, w) of the pooling and its stride, given for output stride 16 and scaled to
            the one in use; a map smaller than the window is pooled as a whole.
        **kwargs: As for :class:`LiteHead`.

    Raises:
        ValueError: An option is out of range or does not fit the maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        pool_size: Sequence[int] = (49, 49),
        pool_stride: Sequence[int] = (16, 20),
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, channels, maps=2, **kwargs)
        for name, value in (('pool_size', pool_size), ('pool_stride', pool_stride)):
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f'{name}={value!r}: allowed are two integers from 1')
        self.pool_size = tuple(self._scaled(length) for length in pool_size)
        self.pool_stride = tuple(self._scaled(length) for length in pool_stride)
        finer, inputs = self.in_channels
        self.aspp0 = self._conv(inputs, channels)
        self.gate = self._conv(inputs, channels, norm_cfg=None, act_cfg=dict(type='Sigmoid'))
        self.skip_seg = nn.Conv2d(finer, self.out_channels, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, h, w) to logits (N, num_classes, h, w) at the size of the finer map."""
        low, x = self._transform_inputs(inputs)
        # A window that leaves the map takes the mean of what is inside, in one way for all sizes: it can be exported.
        (height, width), (down, right) = self.pool_size, self.pool_stride
        sums, counts = (
            F.avg_pool2d(F.pad(y, (0, width - 1, 0, height - 1)), self.pool_size, self.pool_stride)[
                :, :, : at_least_0(x.shape[2] - height) // down + 1, : at_least_0(x.shape[3] - width) // right + 1
            ]
            for y in (x, torch.ones_like(x[:1, :1]))
        )
        gate = self.gate(sums / counts)
        y = self.aspp0(x) * self._resize(gate, x.shape[2:])
        return self.cls_seg(self._resize(y, low.shape[2:])) + self.skip_seg(low)


@MODELS.register_module()
class DeepLab(EncoderDecoder):
    """MMSegmentation's encoder-decoder whose head takes its channels and output stride from the backbone.

    So the maps, the output stride and the width are chosen in one place: ``backbone.out_indices``,
    ``backbone.output_stride`` and ``backbone.widen_factor``. Labels are checked before they are used.

    Raises:
        ValueError: ``in_channels`` or ``output_stride`` is given for the head nevertheless, and does not fit.
    """

    def _init_decode_head(self, decode_head: Cfg) -> None:
        points = self.backbone.plan.outputs
        index = decode_head.get('in_index')
        points = points if index is None else [points[i] for i in _tuple(index)]
        wanted = dict(in_channels=tuple(point.channels for point in points), output_stride=points[-1].stride)
        head = {**wanted, **decode_head}
        for name, value in wanted.items():
            given = _tuple(head[name]) if name == 'in_channels' else head[name]
            if given != value:
                raise ValueError(
                    f'decode_head.{name}={head[name]!r} does not fit the backbone, which has {value!r}; '
                    'leave it out to take that'
                )
        super()._init_decode_head(head)
        losses = self.decode_head.loss_decode
        losses = losses if isinstance(losses, nn.ModuleList) else [losses]
        if self.num_classes < 2 or (self.out_channels == 1 and not all(loss.use_sigmoid for loss in losses)):
            raise ValueError(
                f'decode_head.num_classes={self.num_classes}, out_channels={self.out_channels}: the background is a '
                'class too, and softmax over one score is always 1; set num_classes=2, and out_channels=1 only with '
                "loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)"
            )

    def _init_auxiliary_head(self, auxiliary_head: Cfg | list[Cfg] | None) -> None:
        super()._init_auxiliary_head(auxiliary_head)
        ours = isinstance(self.decode_head, LiteHead) and not self.with_neck and auxiliary_head is None
        self.backbone.any_format_out = ours  # the lite heads take the channels-last format at full speed

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """The losses of a batch; raises ``LabelError`` for labels that are no class."""
        check_labels(data_samples, self.num_classes, self.decode_head.ignore_index)
        return super().loss(inputs, data_samples)

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """The label maps of a batch; raises ``LabelError`` where there are labels that are no class."""
        check_labels(data_samples or [], self.num_classes, self.decode_head.ignore_index)
        return super().predict(inputs, data_samples)


def _tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


class LabelError(UserError):
    """A label map that does not fit the classes; the message names its file."""


def check_labels(data_samples: Sequence[SegDataSample], num_classes: int, ignore_index: int = 255) -> None:
    """Raises :class:`LabelError` for label maps with more than one channel, or with labels that are no class.

    Labels are 0 to ``num_classes - 1``; samples without ``gt_sem_seg`` are passed over.
    """
    labelled = [sample for sample in data_samples if 'gt_sem_seg' in sample]
    worst = []
    for sample in labelled:
        labels = sample.gt_sem_seg.data
        if labels.dim() != 3 or labels.shape[0] != 1:
            raise LabelError(
                f'{_file(sample)} is no label map: it has the shape {tuple(labels.shape)}; expected is one '
                'channel with the number of a class in each pixel'
            )
        invalid = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
        worst.append((labels * invalid).flatten().abs().max())  # 0 is a class: it is never invalid
    if not worst or not torch.stack(worst).any():  # one wait for the device, for the whole batch
        return
    sample = labelled[int(torch.stack(worst).argmax())]
    labels = sample.gt_sem_seg.data
    found = [x for x in labels.unique().tolist() if x != ignore_index and not 0 <= x < num_classes]
    raise LabelError(
        f'{_file(sample)} has the label{"s" if len(found) > 1 else ""} {listing(found, 8)}; with '
        f'num_classes={num_classes} allowed are 0 to {num_classes - 1}, and {ignore_index} for pixels to ignore'
    )


def _file(sample: SegDataSample) -> str:
    meta = sample.metainfo
    return str(meta.get('seg_map_path') or meta.get('img_path') or 'a label map')
