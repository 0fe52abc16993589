"""The detector's classes and box codes: TensorFlow's order and ours.

TensorFlow puts the background first, MMDetection last; TensorFlow's box code is (ty, tx, th, tw), MMDetection's (dx,
dy, dw, dh). TensorFlow's label maps of COCO have all of its 90 ids, of which 80 are used.
"""

import re

from torch import Tensor

from ..errors import WeightsError

#: COCO's ids without images: named in the paper (arXiv 1405.0312), never annotated.
UNUSED_COCO_IDS = {
    12: 'street sign',
    26: 'hat',
    29: 'shoe',
    30: 'eye glasses',
    45: 'plate',
    66: 'mirror',
    68: 'window',
    69: 'desk',
    71: 'door',
    83: 'blender',
}
#: Keys of the class predictors.
SCORES = re.compile(r'bbox_head\.cls_convs\.\d+\.1\.(weight|bias)')
_CODES = re.compile(r'bbox_head\.reg_convs\.\d+\.1\.(weight|bias)')

State = dict[str, Tensor]


def to_mm_order(state: State) -> State:
    """TensorFlow's predictors with the background last and the box code as dx, dy, dw, dh."""
    state = dict(state)
    for key, value in state.items():
        if _CODES.fullmatch(key):
            per_anchor = value.unflatten(0, (-1, 4))
            state[key] = per_anchor[:, [1, 0, 3, 2]].flatten(0, 1)
        elif SCORES.fullmatch(key):
            state[key] = _per_anchor(state, key).roll(-1, 1).flatten(0, 1)
    return state


def num_classes(state: State) -> int | None:
    """Number of the detector's classes, without the background; None if there is no detector."""
    key = 'bbox_head.cls_convs.0.1.weight'
    return _per_anchor(state, key).shape[1] - 1 if key in state else None


def class_names(number: int) -> tuple[str, ...] | None:
    """Names of COCO's 90 ids, used or not; None for any other number of classes."""
    if number != 90:
        return None
    from mmdet.datasets import CocoDataset  # a slow import that only a detector needs

    used = iter(CocoDataset.METAINFO['classes'])
    return tuple(UNUSED_COCO_IDS.get(i) or next(used) for i in range(1, 91))


def voc_classes() -> dict[str, list]:
    """Names and colours of the 21 classes of VOC's segmenters, in TensorFlow's and MMSegmentation's order."""
    from mmseg.datasets import PascalVOCDataset  # a slow import that only a segmenter needs

    return {name: list(PascalVOCDataset.METAINFO[name]) for name in ('classes', 'palette')}


def keep_coco_classes(state: State) -> tuple[State, tuple[str, ...]]:
    """Reduces a detector of COCO's 90 ids to the 80 that are used; returns their names too, in MMDetection's order."""
    found = num_classes(state)
    names = class_names(found or 0)
    if names is None:
        what = 'no detector in it' if found is None else f'its detector has {found} classes'
        raise WeightsError(f"classes='coco' needs a detector of COCO's 90 ids; {what}. Use classes='all'")
    kept = [i - 1 for i in range(1, 91) if i not in UNUSED_COCO_IDS]
    state = dict(state)
    for key in state:
        if SCORES.fullmatch(key):
            state[key] = _per_anchor(state, key)[:, [*kept, 90]].flatten(0, 1)
    return state, tuple(names[i] for i in kept)


def _per_anchor(state: State, key: str) -> Tensor:
    """A class predictor's tensor as (anchors, scores, ...); the number of anchors is the box predictor's."""
    boxes = state.get(key.replace('cls_convs', 'reg_convs'))
    scores = state[key]
    if boxes is None or boxes.shape[0] % 4 or scores.shape[0] % (boxes.shape[0] // 4 or 1):
        raise WeightsError(f'{key}: does not fit the box predictor beside it')
    return scores.unflatten(0, (boxes.shape[0] // 4, -1))
