"""SSD's augmentation in one step, from the file to the network's input.

MMDetection's chain (LoadImage, PhotoMetricDistortion, Expand, MinIoURandomCrop, Resize, RandomFlip) carries the whole
image, in float32 and enlarged up to sixteen times, through every transform. Here all random numbers are drawn first, in
the same order and where possible by MMDetection's own transforms; what remains is one affine map from the decoded file
to the small output, whose colours are distorted afterwards. So the same random state gives the same boxes as the chain,
and images that differ by interpolation alone.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import Expand, MinIoURandomCrop, PhotoMetricDistortion, RandomFlip
from mmdet.structures.bbox import HorizontalBoxes
from PIL import Image

from ..registry import TRANSFORMS
from .images import LoadImage

#: The factors by which libjpeg can reduce an image while it decodes it, and OpenCV's flags for them. It pays for photos
#: of many megapixels; for COCO's images it makes next to no difference.
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_ORIENTATION = 0x0112  # EXIF's tag
_SATURATED = np.array(((math.inf,), (1,), (math.inf,), (0,)))  # the most there can be of hue, saturation and value
_TRIES = 50  # as MinIoURandomCrop makes for each overlap that it draws


class View(NamedTuple):
    """The rectangle of the file's image that the output shows; left and top are negative where the fill is shown."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG file from its header; None for other formats and for images that EXIF rotates."""
    if not data.startswith(b'\xff\xd8'):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = image.format == 'JPEG' and image.getexif().get(_ORIENTATION, 1) == 1
            return (image.height, image.width) if upright and min(image.size) > 0 else None
    except Exception:  # whatever Pillow raises at odd headers: the full decode has the last word
        return None


def reduction(view: View, scale: tuple[int, int]) -> int:
    """The factor by which the file may be reduced while it is decoded: 8, 4, 2 or 1.

    It is the largest with which the shown rectangle keeps at least the output's size, (width, height).
    """
    shrinks = min(view.width / scale[0], view.height / scale[1])
    return next((factor for factor in _REDUCED if factor <= shrinks), 1)


def draw_crop(
    crop: MinIoURandomCrop, boxes: np.ndarray, width: int, height: int
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """Draws what ``MinIoURandomCrop`` draws, for boxes (N, 4) and the size of an image.

    Its own loop computes with tensors, which takes longer than decoding the image if the boxes are hard to satisfy.

    Returns:
        The patch (left, top, right, bottom) and a mask (N,) of the boxes with their centre in it; or None: no crop.
    """
    draw = np.random.random  # uniform(low, high) is low + (high - low) * random(), at four times the cost
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    areas = (x2 - x1) * (y2 - y1)
    low_width, low_height = crop.min_crop_size * width, crop.min_crop_size * height
    center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
    # IoU cannot exceed the ratio of the areas, which rejects most tries. The margin is for rounding.
    smallest, largest = (1.001 * areas.min().item(), 0.999 * areas.max().item()) if len(boxes) else (math.inf, 0.0)
    while True:
        min_iou = crop._random_mode()
        if min_iou == 1:
            return None
        for _ in range(_TRIES):
            new_width = low_width + (width - low_width) * draw()
            new_height = low_height + (height - low_height) * draw()
            if not 0.5 <= new_height / new_width <= 2:
                continue
            # There, uniform(width - new_width): one argument is the lower end, and the upper one is 1.
            spare_x, spare_y = width - new_width, height - new_height
            x = spare_x + (1 - spare_x) * draw()
            y = spare_y + (1 - spare_y) * draw()
            left, top, right, bottom = int(x), int(y), int(x + new_width), int(y + new_height)
            area = (right - left) * (bottom - top)
            if area == 0 or smallest < min_iou * area or area < min_iou * largest:
                continue
            if not len(boxes):
                return (left, top, right, bottom), np.zeros(0, bool)
            overlap_x = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0)
            overlap_y = np.maximum(np.minimum(y2, bottom) - np.maximum(y1, top), 0)
            overlaps = overlap_x * overlap_y
            if (overlaps / np.maximum(np.float32(area) + areas - overlaps, np.float32(1e-6))).min() < min_iou:
                continue
            inside = (center_x > left) & (center_y > top) & (center_x < right) & (center_y < bottom)
            if inside.any():
                return (left, top, right, bottom), inside


def distort(image: np.ndarray, flags: Sequence[Any]) -> np.ndarray:
    """Distorts the colours of an image (H, W, 3), uint8, BGR, as ``PhotoMetricDistortion`` does with these flags.

    The result is float32; values are not clipped, as there.
    """
    (mode, brighten, contrast, saturate, turn, swap, delta, alpha, saturation, hue, order) = flags
    table = np.arange(256, dtype=np.float32)
    if brighten:
        table += delta
    if contrast and mode == 1:
        table *= alpha
    result: np.ndarray = cv2.LUT(image, table)
    # To HSV and back changes negative values too, and nothing else where neither is distorted.
    if saturate or turn or table[0] < 0:
        result = cv2.cvtColor(result, cv2.COLOR_BGR2HSV)
        change = np.zeros((3, 4), np.float32)
        change[0, 0] = change[2, 2] = 1
        change[1, 1] = saturation if saturate else 1
        # The way back wraps hues around above 360 degrees, but not below 0.
        change[0, 3] = hue % 360 if turn else 0
        result = cv2.transform(result, change)
        if saturate and saturation > 1:
            result = cv2.min(result, _SATURATED)
        result = cv2.cvtColor(result, cv2.COLOR_HSV2BGR)
    if swap or (contrast and mode == 0):
        mix = np.eye(3, dtype=np.float32)
        if swap:
            mix = mix[order]
        if contrast and mode == 0:
            mix *= alpha
        result = cv2.transform(result, mix)
    return result


class _Axis(NamedTuple):
    """How one axis of the output is read from the decoded image.

    Output pixel ``first + i`` reads ``step * i + start`` of the decoded pixels from ``low`` to ``high``.
    """

    first: int
    last: int
    step: float
    start: float
    low: int
    high: int


def _axis(begin: int, shown: int, wanted: int, size: int, reduced_by: int, half_pixel: bool, flip: bool) -> _Axis:
    """Maps an axis of the output, of length ``wanted``, to the interval of the file that it shows.

    The interval and ``size`` are in pixels of the file, which was reduced while it was decoded.
    """
    step = shown / wanted
    start = begin + (0.5 * step - 0.5 if half_pixel else 0.0)
    first, last = 0, wanted
    if begin < 0:  # up to the first pixel that is nearer to the image than to the fill
        first = min(max(math.ceil((-0.5 - start) / step), 0), wanted)
    if begin + shown > size:
        last = max(min(math.floor((size - 0.5 - start) / step) + 1, wanted), first)
    if flip:
        start, step = start + (wanted - 1) * step, -step
        first, last = wanted - last, wanted - first
    start += first * step
    # Beyond the crop its edge is replicated, as if it were cut out.
    low = max(begin, 0) // reduced_by
    high = max(math.ceil(min(begin + shown, size) / reduced_by), low + 1)
    return _Axis(first, last, step / reduced_by, (start + 0.5) / reduced_by - 0.5 - low, low, high)


#: The stages, their transform, and what each option of it must be: ``number`` from low to high, a ``range`` of two
#: between them, one or several ``numbers``; None: not checked here.
_STAGES: dict[str, tuple[type, dict[str, tuple[str, float, float] | None]]] = {
    'photometric': (
        PhotoMetricDistortion,
        dict(
            brightness_delta=('number', 0, 255),
            contrast_range=('range', 0, math.inf),
            saturation_range=('range', 0, math.inf),
            hue_delta=('number', 0, 360),
        ),
    ),
    'expand': (
        Expand,
        dict(mean=('three', 0, 255), to_rgb=None, ratio_range=('range', 1, math.inf), prob=('number', 0, 1)),
    ),
    'crop': (MinIoURandomCrop, dict(min_ious=('numbers', 0, 1), min_crop_size=('number', 0, 1))),
}


def _stage(name: str, given: Mapping[str, Any] | None) -> Any:
    """A stage's transform with its options, or None for a stage that is switched off."""
    if given is None:
        return None
    transform, options = _STAGES[name]
    for option, value in given.items():
        if option not in options:
            raise ValueError(f'SSDAugment: {name} has no option {option!r}; it takes {", ".join(options)}')
        if (allowed := options[option]) is not None:
            _check(f'{name}.{option}', value, *allowed)
    return transform(**given)


def _check(name: str, value: Any, kind: str, low: float, high: float) -> None:
    """Raises unless an option's value is what its kind says, see :data:`_STAGES`."""
    if kind == 'numbers':
        for number in value:
            _check(name, number, 'number', low, high)
    elif kind == 'number':
        if not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f'SSDAugment: {name}={value!r}, must be a number from {low} to {high}')
    elif kind == 'three':
        if np.shape(value) != (3,):
            raise ValueError(f'SSDAugment: {name}={value!r}, must be three numbers')
    elif np.shape(value) != (2,) or not low <= value[0] <= value[1] <= high:
        raise ValueError(f'SSDAugment: {name}={value!r}, must be two numbers, {low} <= first <= second <= {high}')


@TRANSFORMS.register_module()
class SSDAugment(LoadImage):
    """Loads an image and augments it for SSD; stands after ``LoadAnnotations`` and before ``PackDetInputs``.

    Does what ``LoadImage``, ``PhotoMetricDistortion``, ``Expand``, ``MinIoURandomCrop``, ``Resize`` and ``RandomFlip``
    do in this order, several times faster. Images are float32 with ``photometric``, uint8 without, as there. A JPEG
    file is decoded at half, a quarter or an eighth of its size if the shown part stays larger than the output.

    Args:
        scale: (width, height) of the output.
        photometric, expand, crop: Options of ``PhotoMetricDistortion``, ``Expand`` and ``MinIoURandomCrop`` other than
            their defaults; None switches the stage off.
        flip: The probability of a horizontal flip.
        half_pixel_centers: Whether pixels are read at their centres, as OpenCV does; False: as TensorFlow 1 and
            :class:`~mnv2_backbone.TFResize` do.
        skip_corrupt, backend_args: As for :class:`~mnv2_backbone.LoadImage`.

    Raises:
        ValueError: An option does not exist or has a value that is not allowed.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        photometric: Mapping[str, Any] | None = {},  # noqa: B006 - never written to
        expand: Mapping[str, Any] | None = {},  # noqa: B006
        crop: Mapping[str, Any] | None = {},  # noqa: B006
        flip: float = 0.5,
        half_pixel_centers: bool = True,
        skip_corrupt: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(skip_corrupt=skip_corrupt, backend_args=backend_args)
        if len(scale) != 2 or not all(isinstance(size, int) and size > 0 for size in scale):
            raise ValueError(f'SSDAugment: scale={scale!r}, must be (width, height) in pixels')
        self.scale = (scale[0], scale[1])
        self.half_pixel_centers = half_pixel_centers
        self.photometric = _stage('photometric', photometric)
        self.expand = _stage('expand', expand)
        self.crop = _stage('crop', crop)
        _check('flip', flip, 'number', 0, 1)
        self.flip = RandomFlip(prob=float(flip))

    def transform(self, results: dict) -> dict | None:
        """Reads and augments ``results['img_path']``.

        Needs ``gt_bboxes`` (N); ``gt_bboxes_labels`` (N,) and ``gt_ignore_flags`` (N,) follow them. Sets ``img`` (H, W,
        3; BGR), ``img_shape``, ``ori_shape``, ``scale_factor``, ``flip`` and ``flip_direction``; returns None for a
        damaged file with ``skip_corrupt``.

        Raises:
            UnreadableImageError: A damaged file without ``skip_corrupt``, or 100 of them in a row.
            ValueError: No horizontal boxes, or masks, which would not be cropped.
        """
        self._check(results)
        path = results['img_path']
        data = self._guard(path, self._open, path)
        if data is None:
            return None
        size = jpeg_size(data)
        image: np.ndarray | None = None
        if size is None:
            image = self._guard(path, self._decode, data, self.color_type)
            if image is None:
                return None
            size = image.shape[:2]
        if not self._guard(path, self._compare, results, size):
            return None

        colors = None if self.photometric is None else self.photometric._random_flags()
        view = self._draw_view(results, size)

        reduced_by = 1
        if image is None:
            reduced_by = reduction(view, self.scale)
            image = self._guard(path, self._decode_at, data, size, reduced_by)
            if image is None:
                return None
        self._in_a_row = 0
        planes = self._show(image, size, reduced_by, view, colors)
        # PackDetInputs wants the planes one after the other: this way round it has nothing to copy.
        results['img'] = planes.transpose(1, 2, 0)
        results['img_shape'] = planes.shape[1:]
        results['ori_shape'] = size
        return results

    def _check(self, results: dict) -> None:
        boxes = results.get('gt_bboxes')
        if not isinstance(boxes, HorizontalBoxes):
            raise ValueError(
                f'SSDAugment: gt_bboxes is {type(boxes).__name__}, must be HorizontalBoxes: '
                'put LoadAnnotations(with_bbox=True) before it'
            )
        for key in ('gt_masks', 'gt_seg_map'):
            if key in results:
                raise ValueError(f'SSDAugment: it does not crop {key}: load boxes only, or use the single transforms')

    def _draw_view(self, results: dict, size: tuple[int, int]) -> View:
        """Draws what is shown of an image of (height, width), and replaces the boxes in ``results`` accordingly."""
        boxes = results['gt_bboxes'].numpy().astype(np.float32)  # a copy
        height, width = size
        left = top = 0
        if self.expand is not None and self.expand._random_prob() <= self.expand.prob:
            ratio = self.expand._random_ratio()
            left, top = self.expand._random_left_top(ratio, height, width)
            height, width = int(height * ratio), int(width * ratio)
            boxes += np.array((left, top, left, top), np.float32)
        patch = (0, 0, width, height)
        drawn = None if self.crop is None else draw_crop(self.crop, boxes, width, height)
        if drawn is not None:
            patch, inside = drawn
            width, height = patch[2] - patch[0], patch[3] - patch[1]
            boxes = boxes[inside] - np.array(patch[:2] * 2, np.float32)
            np.clip(boxes, 0, np.array((width, height) * 2, np.float32), out=boxes)
            for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
                if key in results:
                    results[key] = results[key][inside]
        factors = (self.scale[0] / width, self.scale[1] / height)
        boxes *= np.array(factors * 2, np.float32)
        np.clip(boxes, 0, np.array(self.scale * 2, np.float32), out=boxes)
        direction = self.flip._choose_direction()
        if direction is not None:
            boxes[:, [0, 2]] = self.scale[0] - boxes[:, [2, 0]]
        results['gt_bboxes'] = HorizontalBoxes(torch.from_numpy(boxes), clone=False)
        results['scale_factor'] = factors
        results['flip'] = direction is not None
        results['flip_direction'] = direction
        return View(patch[0] - left, patch[1] - top, width, height, direction is not None)

    def _decode_at(self, data: bytes, size: tuple[int, int], reduced_by: int) -> np.ndarray:
        image = self._decode(data, _REDUCED[reduced_by] if reduced_by > 1 else self.color_type)
        expected = tuple(math.ceil(length / reduced_by) for length in size)
        if image.shape[:2] != expected:
            raise ValueError(f'decoded to {image.shape[:2]}, but its header says {expected}')
        return image

    def _show(
        self, image: np.ndarray, size: tuple[int, int], reduced_by: int, view: View, colors: Sequence[Any] | None
    ) -> np.ndarray:
        """Maps the decoded image (h, w, 3), uint8, BGR, to (3, H, W): float32 with ``colors``, else uint8."""
        half = self.half_pixel_centers
        x = _axis(view.left, view.width, self.scale[0], size[1], reduced_by, half, view.flip)
        y = _axis(view.top, view.height, self.scale[1], size[0], reduced_by, half, False)
        shown = (x.last - x.first, y.last - y.first)
        planes = np.empty((3, self.scale[1], self.scale[0]), np.uint8 if colors is None else np.float32)
        if shown != self.scale:
            planes[:] = np.asarray(self.expand.mean).reshape(3, 1, 1)
        if min(shown) == 0:
            return planes
        shown_part = cv2.warpAffine(
            image[y.low : y.high, x.low : x.high],
            np.array([[x.step, 0, x.start], [0, y.step, y.start]]),
            shown,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        if colors is not None:
            shown_part = distort(shown_part, colors)
        cv2.split(shown_part, [plane[y.first : y.last, x.first : x.last] for plane in planes])
        return planes

    def __repr__(self) -> str:
        names = ('scale', 'photometric', 'expand', 'crop', 'flip', 'half_pixel_centers', 'skip_corrupt')
        return f'SSDAugment({", ".join(f"{name}={getattr(self, name)}" for name in names)})'
