"""A checkpoint of one class list for a model of another: classes of the same name keep their weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .detector import SCORES

#: VOC's names of classes, and COCO's.
SYNONYMS = {'aeroplane': 'airplane', 'motorbike': 'motorcycle', 'sofa': 'couch', 'tvmonitor': 'tv'}

_SEGMENTER = re.compile(r'decode_head\.conv_seg\.(weight|bias)')


@dataclass(frozen=True)
class Transfer:
    """The weights for the new class list, and the names of the classes that kept theirs and that start fresh."""

    state_dict: dict[str, Tensor]
    kept: tuple[str, ...]
    fresh: tuple[str, ...]


def fit_classes(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]
) -> Transfer:
    """Rearranges the class predictors of a checkpoint for another class list; ``own`` are the model's weights.

    Names are compared without case, spaces and hyphens; VOC's and COCO's names of the same thing count as equal. The
    background is always kept.
    """
    positions = {_plain(name): i for i, name in enumerate(old)}
    sources = [positions.get(_plain(name)) for name in new]
    kept = [i for i, source in enumerate(sources) if source is not None]
    taken = [source for source in sources if source is not None]
    result = dict(state_dict)
    for key, value in state_dict.items():
        if SCORES.fullmatch(key) and key in own:
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
        result, tuple(names[i] for i in kept), tuple(name for i, name in names.items() if sources[i] is None)
    )


def _plain(name: str) -> str:
    plain = re.sub(r'[\s_-]', '', name.lower())
    return SYNONYMS.get(plain, plain)
