"""Several images laid out on one sheet."""

from collections.abc import Sequence

import cv2
import numpy as np


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, width: int = 1280) -> np.ndarray:
    """Lays images (height, width, 3), uint8, of any sizes out in rows of equal width, on white; one or more images."""
    gap = 8
    rows = []
    for start in range(0, len(images), columns):
        row = images[start : start + columns]
        aspects = np.array([image.shape[1] / image.shape[0] for image in row])
        # A last row that is not full is as high as if it were.
        height = round((width - gap * (columns + 1)) / (aspects.mean() * columns))
        strip = np.full((height + gap, width, 3), 255, np.uint8)
        edges = gap + np.rint(np.concatenate([[0], np.cumsum(aspects * height + gap)])).astype(int)
        for image, left, right in zip(row, edges, edges[1:] - gap, strict=False):
            right = min(right, width)
            strip[gap:, left:right] = cv2.resize(image, (right - left, height), interpolation=cv2.INTER_AREA)
        rows.append(strip)
    return np.concatenate([*rows, np.full((gap, width, 3), 255, np.uint8)])
