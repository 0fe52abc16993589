"""Label maps: checked when they come in, written as indexed PNG when they go out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmseg.evaluation.metrics import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from .errors import UserError
from .registry import METRICS


class LabelError(UserError):
    """A label map that does not fit the classes; the message names its file."""


def check_labels(data_samples: Sequence[SegDataSample], num_classes: int, ignore_index: int = 255) -> None:
    """Refuses label maps with labels that are no class.

    Args:
        data_samples: Samples, some with ``gt_sem_seg`` (1, H, W).
        num_classes: Number of classes; labels are 0 to ``num_classes - 1``.
        ignore_index: The label of pixels that do not count.

    Raises:
        LabelError: A label map has other labels, or more than one channel.
    """
    labelled = [sample for sample in data_samples if 'gt_sem_seg' in sample]
    worst = []
    for sample in labelled:
        labels = sample.gt_sem_seg.data
        if labels.dim() != 3 or labels.shape[0] != 1:
            raise LabelError(
                f'{_file(sample)} is no label map: it has the shape {tuple(labels.shape)}; wanted is one '
                'channel with the number of a class in each pixel'
            )
        strange = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
        worst.append((labels * strange).flatten().abs().max())  # 0 is a class: it is never strange
    if not worst or not torch.stack(worst).any():  # one wait for the device, for the whole batch
        return
    sample = labelled[int(torch.stack(worst).argmax())]
    labels = sample.gt_sem_seg.data
    found = [x for x in labels.unique().tolist() if x != ignore_index and not 0 <= x < num_classes]
    raise LabelError(
        f'{_file(sample)} has the label{"s" if len(found) > 1 else ""} {", ".join(map(str, found[:8]))}'
        f'{" ..." if len(found) > 8 else ""}; with num_classes={num_classes} allowed are 0 to '
        f'{num_classes - 1}, and {ignore_index} for pixels to ignore'
    )


def _file(sample: SegDataSample) -> str:
    meta = sample.metainfo
    return str(meta.get('seg_map_path') or meta.get('img_path') or 'a label map')


def voc_colormap(size: int = 256) -> np.ndarray:
    """Pascal VOC's colours: the bits of the index, spread over red, green and blue.

    Args:
        size: Number of colours, 256 at most.

    Returns:
        (size, 3) uint8, RGB.
    """
    bits = (np.arange(size)[:, None] >> np.arange(8)) & 1
    colours = np.zeros((size, 3), dtype=np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= bits[:, bit] << (7 - bit // 3)
    return colours.astype(np.uint8)


def save_indexed_png(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    palette: Sequence[Sequence[int]] | np.ndarray | None = None,
) -> None:
    """Writes a label map as an indexed PNG: its values are the labels, and viewers show colours.

    Args:
        path: The file; its folder is made if missing.
        labels: (H, W), whole numbers from 0 to 255.
        palette: RGB of each label from 0 on; Pascal VOC's colours for all that follow (255, the ignored
            pixels, is cream as in VOC).

    Raises:
        ValueError: ``labels`` is not a map of numbers from 0 to 255, or the palette has more than 256
            colours.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in 'iub' or (labels.size and labels.max() > 255):
        raise ValueError(
            f'labels of shape {labels.shape} and type {labels.dtype}: wanted is (H, W) of whole numbers '
            'from 0 to 255'
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f'labels has {labels.min()}: allowed are 0 to 255')
    colours = voc_colormap()
    if palette is not None and len(palette):
        if len(palette) > len(colours):
            raise ValueError(f'palette has {len(palette)} colours: a PNG holds 256')
        colours[: len(palette)] = np.asarray(palette)
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


@METRICS.register_module()
class IndexedIoUMetric(IoUMetric):
    """MMSegmentation's ``IoUMetric`` whose ``output_dir`` gets indexed PNGs in the data set's colours.

    (MMSegmentation's own are grey: the labels of VOC are all but black.)
    """

    output_dir: str | None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measures a batch, and writes its predictions where ``output_dir`` is set.

        Args:
            data_batch: Unused.
            data_samples: Results as dictionaries, with ``pred_sem_seg`` and ``gt_sem_seg`` (1, H, W).
        """
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
            save_indexed_png(
                Path(folder, f'{name}.png'), labels + shifted, [[0, 0, 0]] * shifted + palette
            )
