"""An exported file in the place of a model, so that mm's runners test it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from torch import Tensor

from ..registry import MODELS
from .exported import Exported


@MODELS.register_module()
class ExportedModel(BaseModel):
    """Runs a file that ``tools/export.py`` wrote on what a data loader gives, pictures as they were loaded.

    Args:
        path: The file.
        threads: How many threads compute; the runtime's default where None.

    Raises:
        UserError: See :class:`mnv2_backbone.deployment.exported.Exported`.
    """

    def __init__(self, path: str, threads: int | None = None) -> None:
        super().__init__()
        self.exported = Exported(path, threads)

    def forward(self, inputs: Sequence[Tensor], data_samples: Sequence[Any], mode: str = 'predict') -> list[Any]:
        """Detects or segments.

        Args:
            inputs: (3, H, W) each, BGR, bytes, of any size.
            data_samples: mm's samples that belong to them.
            mode: ``'predict'``.

        Returns:
            The samples, with ``pred_instances`` or ``pred_sem_seg``.

        Raises:
            ValueError: Another mode: an exported file does not train.
        """
        if mode != 'predict':
            raise ValueError(f"mode={mode!r}: an exported file allows 'predict' only")
        results = self.exported([x.permute(1, 2, 0).cpu().numpy() for x in inputs])
        for sample, result in zip(data_samples, results):
            if self.exported.recipe.task == 'detect':
                sample.pred_instances = result
            else:
                sample.pred_sem_seg = PixelData(data=torch.from_numpy(result)[None].long())
        return list(data_samples)


def pipeline_for(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A test pipeline for a file that resizes pictures itself.

    Args:
        steps: The pipeline of the trained model.

    Returns:
        What loads pictures and annotations, and packs them.
    """
    return [dict(step) for step in steps if 'Resize' not in step['type']]
