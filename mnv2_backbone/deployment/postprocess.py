"""From all boxes and scores of a picture to its detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor


def thin_out(boxes: Tensor, scores: Tensor, cfg: Mapping[str, Any]) -> InstanceData:
    """Keeps the boxes with a score, the best of those that overlap; equal to what the trained model does.

    A box is suppressed by surer ones only, so the surest few are thinned out first, and more only where too few
    remain: with a low threshold, that is a small part of the work.

    Args:
        boxes: (anchors, 4).
        scores: (anchors, classes).
        cfg: ``score_thr``, ``nms_pre`` (-1: all), ``nms``, ``max_per_img``.

    Returns:
        ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,), the surest first.
    """
    # NumPy looks through them in one thread. PyTorch's other threads, once woken, would spin for some milliseconds and
    # take the cores from the runtime that computes the next picture: that costs more than all the rest here.
    found_at = np.flatnonzero(scores.numpy() > cfg['score_thr'])
    anchors, labels = (torch.from_numpy(x) for x in np.divmod(found_at, scores.shape[1]))
    values = scores[anchors, labels]
    limit = cfg.get('nms_pre', -1)
    count = len(values) if limit < 0 else min(limit, len(values))
    if not count:
        return InstanceData(bboxes=boxes[:0], scores=values, labels=labels)
    wanted = cfg['max_per_img']
    taken = min(count, 4 * wanted)
    while True:
        top, order = values.topk(taken)
        found, keep = batched_nms(boxes[anchors[order]], top, labels[order], dict(cfg['nms']))
        if len(keep) >= wanted or taken == count:
            break
        taken = min(count, 4 * taken)
    found, keep = found[:wanted], keep[:wanted]
    return InstanceData(bboxes=found[:, :4], scores=found[:, 4], labels=labels[order][keep])
