"""Label maps as indexed PNG files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.evaluation.metrics import IoUMetric
from PIL import Image

from ..errors import UserError
from ..registry import METRICS


def voc_colormap(size: int = 256) -> np.ndarray:
    """Pascal VOC's first ``size`` colours, (size, 3), uint8, RGB: the bits of the index spread over the channels."""
    bits = (np.arange(size)[:, None] >> np.arange(8)) & 1
    colours = np.zeros((size, 3), dtype=np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= bits[:, bit] << (7 - bit // 3)
    return colours.astype(np.uint8)


def save_indexed_png(
    path: str | os.PathLike[str], labels: np.ndarray, palette: Sequence[Sequence[int]] | np.ndarray | None = None
) -> None:
    """Writes a label map (H, W) of integers from 0 to 255 as an indexed PNG, whose colours viewers show.

    ``palette`` has the RGB of each label from 0 on; Pascal VOC's colours are used for all that follow (255, the ignored
    pixels, is cream as in VOC).

    Raises:
        ValueError: ``labels`` is something else, or the palette has more than 256 colours.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in 'iub' or (labels.size and labels.max() > 255):
        raise ValueError(
            f'labels of shape {labels.shape} and type {labels.dtype}: expected (H, W) of integers from 0 to 255'
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f'labels has {labels.min()}: allowed are 0 to 255')
    colours = voc_colormap()
    if palette is not None and len(palette):
        if len(palette) > len(colours):
            raise ValueError(f'palette has {len(palette)} colours: a PNG holds 256')
        colours[: len(palette)] = np.asarray(palette)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.tobytes())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


@METRICS.register_module()
class IndexedIoUMetric(IoUMetric):
    """MMSegmentation's ``IoUMetric`` whose ``output_dir`` gets indexed PNGs in the data set's colours.

    (MMSegmentation's own are grey: the labels of VOC are all but black.)
    """

    output_dir: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._written: dict[str, str] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measures a batch, and writes its predictions, ``pred_sem_seg`` (1, H, W), if ``output_dir`` is set."""
        folder, self.output_dir = self.output_dir, None  # the base class would write its own
        try:
            super().process(data_batch, data_samples)
        finally:
            self.output_dir = folder
        if folder is None:
            return
        palette = [list(colour) for colour in self.dataset_meta.get('palette') or []]
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'].squeeze().cpu().numpy().astype(np.int64)
            shifted = bool(sample.get('reduce_zero_label'))  # back to the numbers in the data set's files
            name = Path(sample['img_path']).stem
            if self._written.setdefault(name, sample['img_path']) != sample['img_path']:
                raise UserError(
                    f'{folder}: {self._written[name]} and {sample["img_path"]} would both be written as {name}.png'
                )
            save_indexed_png(Path(folder, f'{name}.png'), labels + shifted, [[0, 0, 0]] * shifted + palette)
