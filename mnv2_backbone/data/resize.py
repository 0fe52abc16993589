"""TensorFlow 1's bilinear resizing."""

from functools import lru_cache

import cv2
import numpy as np
from mmdet.datasets.transforms import Resize

from ..errors import UserError
from ..registry import TRANSFORMS

_MOST = 2**15 - 1  # pixels of a side that OpenCV can address


@lru_cache(4)
def _places(rows: int, columns: int, height: int, width: int) -> tuple[list[list[np.ndarray]], np.ndarray, np.ndarray]:
    """Where the four pixels around a wanted one are, [above, below][left, right], and how far it is from the first."""
    *ys, down = _taps(rows, height)
    *xs, across = _taps(columns, width)
    places = [[np.stack(np.broadcast_arrays(x, y[:, None]), -1) for x in xs] for y in ys]
    return places, down[:, None], across


def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels between which each of the ``wanted`` ones is read, and how far it is from the first."""
    at = np.arange(wanted, dtype=np.float32) * np.float32(size / wanted)
    low = at.astype(np.int16)
    return low, np.minimum(low + 1, size - 1, dtype=np.int16), (at - low).astype(np.float32)


def tf_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image (H, W, C) as TensorFlow 1's ``resize_bilinear``; the result is float32.

    Pixel i is read at i * scale, without half-pixel centres.

    Raises:
        UserError: A side has more than 32767 pixels.
    """
    if max(image.shape[:2]) > _MOST:
        raise UserError(f'an image of {image.shape[1]}x{image.shape[0]}: at most {_MOST} pixels a side can be resized')
    places, down, across = _places(*image.shape[:2], height, width)
    across = across.repeat(image.size // (image.shape[0] * image.shape[1]))

    def pixels(row: int, column: int) -> np.ndarray:
        """The pixels above or below and left or right, which OpenCV collects faster than NumPy."""
        found: np.ndarray = cv2.remap(image, places[row][column], np.empty(0), cv2.INTER_NEAREST)
        return found.reshape(height, -1).astype(np.float32)

    def between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
        second -= first
        second *= share
        first += second
        return first

    def column(number: int) -> np.ndarray:
        upper = pixels(0, number)
        return between(upper, pixels(1, number), down) if down.any() else upper

    # At an integer scale, as for photos of 640 or 1280 pixels at 320, pixels are read as they are.
    found = column(0)
    found = between(found, column(1), across) if across.any() else found
    return found.reshape(height, width, -1)


@TRANSFORMS.register_module()
class TFResize(Resize):
    """Resizes images as the original graphs do, see :func:`tf_bilinear`; without ``keep_ratio``.

    (OpenCV reads at pixel centres and rounds to integers: then Google's detector does not score as in TensorFlow.)
    """

    def _resize_img(self, results: dict) -> None:
        if self.keep_ratio:
            raise ValueError('TFResize: keep_ratio=True is not supported')
        image = results['img']
        width, height = results['scale']
        results['img'] = tf_bilinear(image, height, width)
        results['img_shape'] = (height, width)
        results['scale_factor'] = (width / image.shape[1], height / image.shape[0])
        results['keep_ratio'] = False
