"""Exported files, run on pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from .postprocess import thin_out
from .recipe import Recipe
from .runtimes import load_runtime


class Exported:
    """A file that ``tools/export.py`` wrote, called like what :func:`mnv2_backbone.deploy` returns.

    Args:
        path: An ``.onnx``, ``.xml`` or ``.pt2`` file. The last holds machine code: run files of your own only.
        threads: How many threads compute; the runtime's default where None.

    Raises:
        UserError: The file is missing, damaged, not exported by this package, or its runtime is not installed.

    Examples:
        >>> detect = Exported('ssdlite.onnx')
        >>> detect([picture])[0].bboxes
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        self._runtime = load_runtime(Path(path), threads)

    @property
    def recipe(self) -> Recipe:
        """Task, classes, palette, size, sampling, thresholds."""
        return self._runtime.manifest.recipe

    @property
    def precision(self) -> str:
        """``'fp32'``, ``'bf16'`` or ``'int8'``."""
        return self._runtime.manifest.precision

    @property
    def nms(self) -> bool:
        """Whether boxes are thinned out inside the file."""
        return self._runtime.manifest.nms

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Any]:
        """Detects or segments.

        Args:
            pictures: (H, W, 3) each, BGR, bytes, of any size; computed together where all have the same.

        Returns:
            For each picture, of a detector :class:`InstanceData` with ``bboxes`` (n, 4) in its pixels, ``scores`` (n,)
            and ``labels`` (n,), of a segmenter its label map (H, W), bytes.
        """
        if len({picture.shape for picture in pictures}) > 1:
            return [result for picture in pictures for result in self([picture])]
        if not pictures:
            return []
        # np.stack keeps the order in memory, and TorchInductor's packages do not look at it
        outputs = self._runtime(np.ascontiguousarray(np.stack(pictures)))
        if self.recipe.task == 'segment':
            return list(outputs[0])
        return [self._found(*map(torch.from_numpy, of_one)) for of_one in zip(*outputs)]

    def _found(self, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor | None = None) -> InstanceData:
        if labels is None:
            return thin_out(boxes, scores, self.recipe.test_cfg)
        real = scores > 0  # the rest only fills the row
        return InstanceData(bboxes=boxes[real], scores=scores[real], labels=labels[real])
