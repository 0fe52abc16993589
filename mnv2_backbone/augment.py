"""SSD's augmentation in one step, from the file to the network's input.

MMDetection's chain (LoadImage, PhotoMetricDistortion, Expand, MinIoURandomCrop, Resize, RandomFlip) carries the
whole picture, in float32 and enlarged up to sixteen times, through every transform. Here all that is random is
drawn first, by MMDetection's own transforms where they let one and in their order; what remains is one affine map
from the decoded file to the small output, whose colours are distorted afterwards. So the same random state gives
the same boxes as the chain, and pictures that differ by interpolation alone.
"""

from __future__ import annotations

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

from .registry import TRANSFORMS
from .runtime.images import LoadImage

#: What libjpeg can divide a picture's size by while it decodes, and OpenCV's flags for that. It pays for photos of
#: many megapixels; for COCO's pictures it makes next to no difference.
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_ORIENTATION = 0x0112  # EXIF's tag
_SATURATED = np.array(((math.inf,), (1,), (math.inf,), (0,)))  # the most there can be of hue, saturation and value
_TRIES = 50  # MinIoURandomCrop's, for each overlap that it draws


class View(NamedTuple):
    """What the output shows, in pixels of the picture in the file.

    Attributes:
        left, top: The corner of the shown rectangle; negative where the fill around the picture is shown.
        width, height: Of the shown rectangle.
        flip: Whether it is mirrored horizontally.
    """

    left: int
    top: int
    width: int
    height: int
    flip: bool


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Reads the size of a JPEG picture from its header.

    Args:
        data: The file.

    Returns:
        (height, width); None for other formats and for pictures that are turned by EXIF when they are decoded.
    """
    if not data.startswith(b'\xff\xd8'):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = image.format == 'JPEG' and image.getexif().get(_ORIENTATION, 1) == 1
            return (image.height, image.width) if upright and min(image.size) > 0 else None
    except Exception:  # whatever Pillow raises at odd headers: the full decode has the last word
        return None


def reduction(view: View, scale: tuple[int, int]) -> int:
    """The most that the file may be reduced by in decoding.

    Args:
        view: What is shown of it.
        scale: (width, height) of the output.

    Returns:
        8, 4, 2 or 1: the largest with which the shown rectangle keeps at least the output's size.
    """
    shrinks = min(view.width / scale[0], view.height / scale[1])
    return next((factor for factor in _REDUCED if factor <= shrinks), 1)


def draw_crop(
    crop: MinIoURandomCrop, boxes: np.ndarray, width: int, height: int
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """Draws what ``MinIoURandomCrop`` draws, without a picture.

    Its own loop does the arithmetic on tensors, which takes longer than decoding the picture where the boxes are
    hard to satisfy.

    Args:
        crop: The options.
        boxes: (N, 4), float32, left, top, right and bottom.
        width, height: Of the picture.

    Returns:
        The patch (left, top, right, bottom) and which of the boxes have their centre in it (N,); or None: no crop.
    """
    draw = np.random.random  # uniform(low, high) is low + (high - low) * random(), at four times the cost
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    areas = (x2 - x1) * (y2 - y1)
    low_width, low_height = crop.min_crop_size * width, crop.min_crop_size * height
    center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
    # No overlap is above the quotient of the two areas: most tries fail by this alone. The margin is for rounding.
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
    """Distorts the colours as ``PhotoMetricDistortion`` does.

    Args:
        image: (H, W, 3), uint8, BGR.
        flags: What its ``_random_flags`` drew.

    Returns:
        (H, W, 3), float32. Values are not clipped, as there.
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
    """How one axis of the output is read from the decoded picture.

    Output pixel ``first + i`` reads ``step * i + start`` of the decoded pixels from ``low`` to ``high``.
    """

    first: int
    last: int
    step: float
    start: float
    low: int
    high: int


def _axis(
    begin: int, shown: int, wanted: int, size: int, reduced_by: int, half_pixel: bool, flip: bool
) -> _Axis:
    """Maps an axis of the output.

    Args:
        begin, shown: The shown interval, in pixels of the file.
        wanted: The output's size.
        size: The file's size.
        reduced_by: What the decoded picture is reduced by.
        half_pixel: Whether pixels are read at their centres.
        flip: Whether the output is mirrored.
    """
    step = shown / wanted
    start = begin + (0.5 * step - 0.5 if half_pixel else 0.0)
    first, last = 0, wanted
    if begin < 0:  # up to the first pixel that is nearer to one of the picture than to the fill
        first = min(max(math.ceil((-0.5 - start) / step), 0), wanted)
    if begin + shown > size:
        last = max(min(math.floor((size - 0.5 - start) / step) + 1, wanted), first)
    if flip:
        start, step = start + (wanted - 1) * step, -step
        first, last = wanted - last, wanted - first
    start += first * step
    # Beyond the crop its edge is repeated, as where the crop is cut out.
    low = max(begin, 0) // reduced_by
    high = max(math.ceil(min(begin + shown, size) / reduced_by), low + 1)
    return _Axis(first, last, step / reduced_by, (start + 0.5) / reduced_by - 0.5 - low, low, high)


def _options(stage: str, given: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> dict[str, Any] | None:
    if given is None:
        return None
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ValueError(f'SSDAugment: {stage} has no option {unknown[0]!r}; it takes {", ".join(allowed)}')
    return dict(given)


def _range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises unless ``value`` is two numbers, the smaller first, between ``low`` and ``high``."""
    try:
        first, second = (float(number) for number in value)
    except (TypeError, ValueError):
        first, second = math.nan, math.nan
    if not low <= first <= second <= high:
        raise ValueError(f'SSDAugment: {name}={value!r}, must be two numbers, {low} <= first <= second <= {high}')


def _number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises unless ``value`` is a number between ``low`` and ``high``."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f'SSDAugment: {name}={value!r}, must be a number from {low} to {high}')


@TRANSFORMS.register_module()
class SSDAugment(LoadImage):
    """Loads a picture and augments it for SSD; stands after ``LoadAnnotations`` and before ``PackDetInputs``.

    Gives what ``LoadImage``, ``PhotoMetricDistortion``, ``Expand``, ``MinIoURandomCrop``, ``Resize`` and
    ``RandomFlip`` give in this order, several times faster. The three stages take the options of the transform, with
    its defaults; None switches a stage off. Pictures are float32 with ``photometric``, uint8 without, as there. A
    JPEG file is decoded at half, a quarter or an eighth of its size where the shown part stays larger than the output.

    Args:
        scale: (width, height) of the output.
        photometric: ``brightness_delta``, ``contrast_range``, ``saturation_range`` and ``hue_delta`` of
            ``PhotoMetricDistortion``.
        expand: ``mean``, ``to_rgb``, ``ratio_range`` and ``prob`` of ``Expand``.
        crop: ``min_ious`` and ``min_crop_size`` of ``MinIoURandomCrop``.
        flip: The probability of a horizontal flip.
        half_pixel_centers: Whether pixels are read at their centres, as OpenCV does; False: as TensorFlow 1 and
            :class:`~mnv2_backbone.transforms.TFResize` do.
        skip_corrupt: As for :class:`~mnv2_backbone.runtime.images.LoadImage`.
        backend_args: As for :class:`mmcv.transforms.LoadImageFromFile`.

    Raises:
        ValueError: An option that does not exist or cannot be.
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
            raise ValueError(f'SSDAugment: scale={scale!r}, must be (width, height) in whole pixels')
        self.scale = (scale[0], scale[1])
        self.half_pixel_centers = half_pixel_centers
        options = _options(
            'photometric', photometric, ('brightness_delta', 'contrast_range', 'saturation_range', 'hue_delta')
        )
        if options is not None:
            for name, high in (('brightness_delta', 255), ('hue_delta', 360)):
                _number(f'photometric.{name}', options.get(name, 0), 0, high)
            for name in ('contrast_range', 'saturation_range'):
                _range(f'photometric.{name}', options.get(name, (0, 0)), 0)
        self.photometric = None if options is None else PhotoMetricDistortion(**options)
        options = _options('expand', expand, ('mean', 'to_rgb', 'ratio_range', 'prob'))
        if options is not None:
            if np.shape(options.get('mean', (0, 0, 0))) != (3,):
                raise ValueError(f'SSDAugment: expand.mean={options["mean"]!r}, must be three numbers')
            _range('expand.ratio_range', options.get('ratio_range', (1, 4)), 1)
            _number('expand.prob', options.get('prob', 0.5), 0, 1)
        self.expand = None if options is None else Expand(**options)
        options = _options('crop', crop, ('min_ious', 'min_crop_size'))
        if options is not None:
            for overlap in options.get('min_ious', ()):
                _number('crop.min_ious', overlap, 0, 1)
            _number('crop.min_crop_size', options.get('min_crop_size', 0.3), 0, 1)
        self.crop = None if options is None else MinIoURandomCrop(**options)
        _number('flip', flip, 0, 1)
        self.flip = RandomFlip(prob=float(flip))

    def transform(self, results: dict) -> dict | None:
        """Reads and augments ``results['img_path']``.

        Args:
            results: The sample, with ``img_path``, ``gt_bboxes`` (N) and optionally ``gt_bboxes_labels`` (N,) and
                ``gt_ignore_flags`` (N,).

        Returns:
            The sample with ``img`` (H, W, 3; BGR), the boxes that are left, ``img_shape``, ``ori_shape``,
            ``scale_factor``, ``flip`` and ``flip_direction``; or None for a damaged file with ``skip_corrupt``.

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
        """Draws what is shown, and moves the boxes in ``results`` along, with MMDetection's roundings.

        Args:
            results: The sample, whose boxes, flags and labels are replaced.
            size: (height, width) of the picture.
        """
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
        self,
        image: np.ndarray,
        size: tuple[int, int],
        reduced_by: int,
        view: View,
        colors: Sequence[Any] | None,
    ) -> np.ndarray:
        """Maps the decoded picture to the output.

        Args:
            image: (h, w, 3), uint8, BGR, reduced.
            size: (height, width) of the picture in the file.
            reduced_by: How much ``image`` is reduced.
            view: What is shown.
            colors: What :func:`distort` does, or None.

        Returns:
            (3, H, W), float32 with ``colors``, else uint8.
        """
        half = self.half_pixel_centers
        x = _axis(view.left, view.width, self.scale[0], size[1], reduced_by, half, view.flip)
        y = _axis(view.top, view.height, self.scale[1], size[0], reduced_by, half, False)
        shown = (x.last - x.first, y.last - y.first)
        planes = np.empty((3, self.scale[1], self.scale[0]), np.uint8 if colors is None else np.float32)
        if shown != self.scale:
            planes[:] = np.asarray(self.expand.mean).reshape(3, 1, 1)  # type: ignore[union-attr]
        if min(shown) == 0:
            return planes
        picture = cv2.warpAffine(
            image[y.low : y.high, x.low : x.high],
            np.array([[x.step, 0, x.start], [0, y.step, y.start]]),
            shown,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        if colors is not None:
            picture = distort(picture, colors)
        cv2.split(picture, [plane[y.first : y.last, x.first : x.last] for plane in planes])
        return planes

    def __repr__(self) -> str:
        return (
            f'SSDAugment(scale={self.scale}, photometric={self.photometric}, expand={self.expand}, '
            f'crop={self.crop}, flip={self.flip.prob}, half_pixel_centers={self.half_pixel_centers}, '
            f'skip_corrupt={self.skip_corrupt})'
        )
