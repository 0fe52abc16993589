"""TensorFlow 1's bilinear resizing."""

import numpy as np
from mmdet.datasets.transforms import Resize

from ..registry import TRANSFORMS


def tf_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image (H, W, C) as TensorFlow 1's ``resize_bilinear``; the result is float32.

    Pixel i is read at i * scale, without half-pixel centres.
    """

    def taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.arange(wanted, dtype=np.float32) * np.float32(size / wanted)
        low = at.astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    top, bottom, y = taps(image.shape[0], height)
    left, right, x = taps(image.shape[1], width)
    rows = image.take(top, 0).astype(np.float32)
    rows += (image.take(bottom, 0) - rows) * y[:, None, None]
    result, other = rows.take(left, 1), rows.take(right, 1)
    other -= result
    other *= x[:, None]
    result += other
    return result


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
