"""A checkpoint of one class list for a model of another: classes of the same name keep their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

#: VOC's names for classes that COCO calls otherwise.
SYNONYMS = {'aeroplane': 'airplane', 'motorbike': 'motorcycle', 'sofa': 'couch', 'tvmonitor': 'tv'}

_DETECTOR = re.compile(r'bbox_head\.cls_convs\.\d+\.1\.(weight|bias)')
_SEGMENTER = re.compile(r'decode_head\.conv_seg\.(weight|bias)')


@dataclass(frozen=True)
class Transfer:
    """What :func:`fit_classes` returns.

    Attributes:
        state_dict: The weights for the new class list.
        kept: Names of the classes that kept their weights.
        fresh: Names of those that start as the model initialised them.
    """

    state_dict: dict[str, Tensor]
    kept: tuple[str, ...]
    fresh: tuple[str, ...]


def fit_classes(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]
) -> Transfer:
    """Rearranges the class predictors of a checkpoint for another class list.

    Names are compared without case, spaces and hyphens, and VOC's and COCO's names of the same thing are
    the same. The background is always kept.

    Args:
        state_dict: The checkpoint's weights.
        own: The model's weights, which give what is not kept.
        old: The checkpoint's classes, in order.
        new: The model's.

    Returns:
        The weights, and which classes they know.
    """
    positions = {_plain(name): i for i, name in enumerate(old)}
    sources = [positions.get(_plain(name)) for name in new]
    kept = [i for i, source in enumerate(sources) if source is not None]
    taken = [source for source in sources if source is not None]
    result = dict(state_dict)
    for key, value in state_dict.items():
        if _DETECTOR.fullmatch(key) and key in own:
            before = value.unflatten(0, (-1, len(old) + 1))  # (anchors, classes and background, ...)
            after = own[key].detach().clone().unflatten(0, (-1, len(new) + 1))
            after[:, [*kept, len(new)]] = before[:, [*taken, len(old)]].to(after)
            result[key] = after.flatten(0, 1)
        elif _SEGMENTER.fullmatch(key) and key in own:
            after = own[key].detach().clone()
            after[kept] = value[taken].to(after)
            result[key] = after
    names = {i: name for i, name in enumerate(new)}
    return Transfer(
        result,
        tuple(names[i] for i in kept),
        tuple(name for i, name in names.items() if sources[i] is None),
    )


def _plain(name: str) -> str:
    plain = re.sub(r'[\s_-]', '', name.lower())
    return SYNONYMS.get(plain, plain)
