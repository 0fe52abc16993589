"""What has to be known beside a network's weights to run it on images: read from a config, stored in exported files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..configs import leaves, type_name
from ..data.resize import tf_bilinear

#: The ways of resizing, by the transform that does it.
SAMPLINGS = {'Resize': 'opencv', 'TFResize': 'tensorflow'}
Colour = tuple[int, int, int]
Size = tuple[int, int]
#: Steps of a test pipeline that change no image, and what the options of any step may be.
_IGNORED = (
    'LoadImageFromFile',
    'LoadImageFromNDArray',
    'LoadImage',
    'LoadAnnotations',
    'PackDetInputs',
    'PackSegInputs',
)
_ALLOWED = dict(keep_ratio=False, interpolation='bilinear', backend='cv2', color_type='color')


def _test_dataset(cfg: Config) -> Any:
    """The test data set of a config, the first if there are several."""
    return next(leaves('', cfg.test_dataloader.dataset))[1]


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """Names and colours of the classes of a config's test data set, as it reads them: ``classes``, ``palette``."""
    dataset = _test_dataset(cfg)
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        kind = registry.get(dataset.type)
    own = dict(dataset.get('metainfo') or {})
    meta: dict[str, Any] = kind._load_metainfo(own)  # which reads a file of names, too
    known = dict(zip(kind.METAINFO.get('classes') or (), kind.METAINFO.get('palette') or ()))
    if 'palette' not in own and known.keys() >= set(meta['classes']):
        meta['palette'] = [known[name] for name in meta['classes']]
    return meta


def test_pipeline(cfg: Config) -> list[Any]:
    """The test pipeline of a config, of the first data set if there are several."""
    return list(_test_dataset(cfg)['pipeline'])


def classes_and_palette(meta: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names of the labels and their colours, MMSegmentation's random ones if there are none, or too few."""
    colours = list(meta.get('palette') or ())  # those of the data set's kind stay if it gets classes of its own
    if len(colours) < len(meta['classes']):
        colours = np.random.RandomState(42).randint(0, 255, (len(meta['classes']), 3)).tolist()
    return tuple(meta['classes']), tuple((int(r), int(g), int(b)) for r, g, b in colours)


def padding_of(cfg: Config) -> dict[str, Any]:
    """The options of a segmenter's data preprocessor for test images."""
    return dict((cfg.model.get('data_preprocessor') or {}).get('test_cfg') or {})


@dataclass(frozen=True)
class Recipe:
    """How a trained model is run on an image.

    ``task`` is ``'detect'`` or ``'segment'``, ``size`` the (height, width) that images are resized to (None: they keep
    their size) by ``sampling``, ``'opencv'`` or ``'tensorflow'`` (1's bilinear); ``palette`` has RGB colours; a
    detector's ``test_cfg`` is its head's, a segmenter's its data preprocessor's, with the ``size`` that it pads to.
    """

    task: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    size: Size | None
    sampling: str = 'opencv'
    test_cfg: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, cfg: Config, meta: Mapping[str, Any] | None = None) -> 'Recipe':
        """Reads it from a config's test pipeline and model, and from ``meta`` (by default of the config's data set).

        Raises:
            ValueError: The test pipeline does more than load, resize to a fixed size and pack.
        """
        size, sampling = None, 'opencv'
        for step in test_pipeline(cfg):
            name = type_name(step)
            usual = all(step.get(option, value) == value for option, value in _ALLOWED.items())
            if name in SAMPLINGS and usual and 'scale' in step and size is None:
                scale = step['scale']
                size = (scale, scale) if isinstance(scale, int) else tuple(scale)[::-1]
                sampling = SAMPLINGS[name]
            elif name not in _IGNORED or not usual:
                raise ValueError(
                    f'the test pipeline has {dict(step)}; a deployed model loads an image, resizes it to a fixed '
                    'size (Resize with scale and keep_ratio=False, TFResize) or not at all, and nothing else'
                )
        meta = dataset_meta(cfg) if meta is None else meta
        segments = type_name(cfg.model) in ('DeepLab', 'EncoderDecoder')
        test_cfg = padding_of(cfg) if segments else cfg.model.test_cfg.to_dict()
        return cls('segment' if segments else 'detect', *classes_and_palette(meta), size, sampling, test_cfg)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image (H, W, 3), uint8, as the test pipeline does; float32 with ``'tensorflow'``."""
        if self.size is None or image.shape[:2] == self.size:
            return image
        height, width = self.size
        if self.sampling == 'tensorflow':
            return tf_bilinear(image, height, width)
        resized: np.ndarray = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized


@dataclass(frozen=True)
class Manifest:
    """The metadata of an exported file: how it is run, its precision, and whether NMS is inside.

    ``decoding`` is what has to be known to decode the outputs of a raw network, see
    :class:`mnv2_backbone.deployment.raw.RawNetwork`.
    """

    recipe: Recipe
    precision: str = 'fp32'
    nms: bool = False
    decoding: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """The metadata as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> 'Manifest':
        """Reads what :meth:`to_json` wrote."""
        values = json.loads(text)
        recipe = values['recipe']
        recipe['classes'] = tuple(recipe['classes'])
        recipe['palette'] = tuple(map(tuple, recipe['palette']))
        recipe['size'] = tuple(recipe['size']) if recipe['size'] else None
        return cls(Recipe(**recipe), values['precision'], values['nms'], values.get('decoding'))
