"""What has to be known beside a network's weights to run it on pictures: read from a config, kept in exported files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..transforms import tf_bilinear

#: The ways of resizing, by the transform that does it.
SAMPLINGS = {'Resize': 'opencv', 'mnv2_backbone.TFResize': 'tensorflow'}
Colour = tuple[int, int, int]
_IGNORED = ('LoadImageFromFile', 'mnv2_backbone.LoadImage', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs')


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """Names and colours of the classes of a config's test data set: ``classes``, ``palette``."""
    dataset = cfg.test_dataloader.dataset
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        return {**registry.get(dataset.type).METAINFO, **(dataset.get('metainfo') or {})}


def as_palette(colours: Any, count: int) -> tuple[Colour, ...]:
    """A palette as it came from a config or a checkpoint, or black for each of so many classes."""
    return tuple((int(r), int(g), int(b)) for r, g, b in colours or [(0, 0, 0)] * count)


@dataclass(frozen=True)
class Recipe:
    """How a trained model is run on a picture.

    Attributes:
        task: ``'detect'`` or ``'segment'``.
        classes: Names of the labels.
        palette: RGB colour of each label.
        size: (height, width) that pictures are resized to; None where they keep their size.
        sampling: How they are resized: ``'opencv'`` or ``'tensorflow'`` (1's bilinear).
        test_cfg: For detectors ``score_thr``, ``nms_pre``, ``nms``, ``max_per_img``.
    """

    task: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    size: tuple[int, int] | None
    sampling: str = 'opencv'
    test_cfg: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, cfg: Config) -> Recipe:
        """Reads it from a config's test pipeline, data set and model.

        Raises:
            ValueError: The test pipeline does more than load, resize to a fixed size and pack.
        """
        dataset = cfg.test_dataloader.dataset
        size, sampling = None, 'opencv'
        for step in dataset.pipeline:
            if step['type'] in SAMPLINGS and not step.get('keep_ratio', False) and 'scale' in step:
                size, sampling = tuple(step['scale'])[::-1], SAMPLINGS[step['type']]
            elif step['type'] not in _IGNORED:
                raise ValueError(
                    f'the test pipeline has {dict(step)}; a deployed model loads a picture, resizes it to a fixed '
                    'size (Resize with scale and keep_ratio=False, TFResize) or not at all, and nothing else'
                )
        meta = dataset_meta(cfg)
        segments = cfg.model.type.rpartition('.')[2] in ('DeepLab', 'EncoderDecoder')
        classes = tuple(meta['classes'])
        palette = as_palette(meta.get('palette'), len(classes))
        test_cfg = {} if segments else cfg.model.test_cfg.to_dict()
        return cls('segment' if segments else 'detect', classes, palette, size, sampling, test_cfg)

    def to_json(self) -> str:
        """The recipe as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads what :meth:`to_json` wrote."""
        values = json.loads(text)
        values['classes'] = tuple(values['classes'])
        values['palette'] = tuple(map(tuple, values['palette']))
        values['size'] = tuple(values['size']) if values['size'] else None
        return cls(**values)

    def resize(self, picture: np.ndarray) -> np.ndarray:
        """Resizes as the test pipeline does.

        Args:
            picture: (H, W, 3), bytes.

        Returns:
            (height, width, 3); bytes, or float32 with ``'tensorflow'``.
        """
        if self.size is None or picture.shape[:2] == self.size:
            return picture
        height, width = self.size
        if self.sampling == 'tensorflow':
            return tf_bilinear(picture, height, width)
        resized: np.ndarray = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized
