"""slim's classifier on top of the backbone, alone and as a head for MMPretrain's ``ImageClassifier``."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import MODELS
from .backbone import MobileNetV2


@MODELS.register_module()
class SlimClsHead(BaseModule):
    """Global average pool, dropout, 1x1 convolution to logits (slim's ``mobilenet``).

    Fits MMPretrain's ``ImageClassifier`` (after its backbone, with no neck) and :class:`Classifier`.

    Args:
        num_classes: Number of logits; 0 for the pooled features instead.
        in_channels: Channels of the last map.
        dropout: Probability of dropping a feature while training (slim keeps 0.8).
        label_smooth: Label smoothing of the loss.
        init_cfg: As in mmengine.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1280,
        dropout: float = 0.2,
        label_smooth: float = 0.0,
        init_cfg: dict[str, Any] | None = dict(  # noqa: B006
            type='TruncNormal', layer='Conv2d', std=0.09, a=-0.18, b=0.18
        ),
    ) -> None:
        super().__init__(init_cfg)
        if num_classes < 0:
            raise ValueError(f'num_classes={num_classes!r}: allowed are 0 (features) and up')
        self.label_smooth = label_smooth
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Conv2d(in_channels, num_classes, 1) if num_classes else None

    def pool(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """(N, C, H, W), or the last of several, to (N, C, 1, 1): slim's ``global_pool``."""
        last = features if isinstance(features, Tensor) else features[-1]
        return last.mean((2, 3), keepdim=True)

    def classify(self, pooled: Tensor) -> Tensor:
        """(N, C, 1, 1) to logits (N, num_classes), or to features (N, C) without classes."""
        if self.logits is None:
            return pooled.flatten(1)
        return self.logits(self.dropout(pooled)).flatten(1)

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Maps to logits (N, num_classes)."""
        return self.classify(self.pool(features))

    def loss(self, features: Sequence[Tensor], data_samples: list, **_: Any) -> dict[str, Tensor]:
        """Cross entropy against the samples' ``gt_score``, if a Mixup or CutMix wrote some, or else ``gt_label``."""
        if 'gt_score' in data_samples[0]:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])
        return dict(loss=F.cross_entropy(self(features), target, label_smoothing=self.label_smooth))

    def predict(self, features: Sequence[Tensor], data_samples: list | None = None) -> list:
        """Writes scores (softmax) and label into each sample, by default new ones; called by ``ImageClassifier``."""
        predicted = self(features).softmax(1)
        if data_samples is None:
            from mmpretrain.structures import DataSample  # only a user of MMPretrain has it

            data_samples = [DataSample() for _ in predicted]
        for sample, scores in zip(data_samples, predicted):
            sample.set_pred_score(scores).set_pred_label(scores.argmax()[None])
        return data_samples


class Classifier(nn.Module):
    """The whole of slim's ``mobilenet_v2.mobilenet``, with its own end points.

    Args:
        num_classes: 1001 in Google's checkpoints, the first of them background; 0 for pooled features.
        dropout: Probability of dropping a feature while training.
        **backbone: Options of :class:`mnv2_backbone.MobileNetV2` but ``out_indices``.

    Examples:
        >>> net = Classifier(num_classes=10, widen_factor=0.35).eval()
        >>> {name: tuple(x.shape) for name, x in net(torch.rand(1, 3, 96, 96)).items()}
        {'global_pool': (1, 448, 1, 1), 'Logits': (1, 10), 'Predictions': (1, 10)}
    """

    def __init__(self, num_classes: int = 1001, dropout: float = 0.2, **backbone: Any) -> None:
        super().__init__()
        layers = len(backbone['spec']) if 'spec' in backbone else 19
        self.backbone = MobileNetV2(out_indices=(f'layer_{layers}',), **backbone)
        self.backbone.any_format_out = True  # for the pooling
        self.head = SlimClsHead(num_classes, self.backbone.out_channels[-1], dropout)

    def init_weights(self) -> None:
        """Initializes as slim does."""
        self.backbone.init_weights()
        self.head.init_weights()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Classifies images (N, 3, H, W), from -1 to 1.

        Returns:
            ``global_pool`` (N, C, 1, 1) and, with classes, ``Logits`` and ``Predictions`` (N, num_classes).
        """
        pooled = self.head.pool(self.backbone(x))
        if self.head.logits is None:
            return dict(global_pool=pooled)
        logits = self.head.classify(pooled)
        return dict(global_pool=pooled, Logits=logits, Predictions=logits.softmax(1))
