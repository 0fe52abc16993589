"""A trained model, built from its config and filled with its weights."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint

from ..weights.load import load_into
from .recipe import dataset_meta


def load_trained(cfg: Config, weights: str) -> tuple[BaseModel, dict[str, Any]]:
    """Builds a model and loads its weights.

    Args:
        cfg: A detection or segmentation config.
        weights: A checkpoint's path or ``mnv2://`` name; it must fit the model as a whole.

    Returns:
        The model, in evaluation mode, and the names and colours of its ``classes``: those the checkpoint was
        trained on, or those of the config's test data set where it does not say.

    Raises:
        UserError: The weights are missing or do not fit.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'init_cfg' in cfg.model.backbone:
        cfg.model.backbone.init_cfg = None  # all weights come from the checkpoint
    model = MODELS.build(cfg.model)
    checkpoint = _load_checkpoint(weights, map_location='cpu')
    load_into(model, checkpoint.get('state_dict', checkpoint))
    return model.eval(), {**dataset_meta(cfg), **((checkpoint.get('meta') or {}).get('dataset_meta') or {})}
