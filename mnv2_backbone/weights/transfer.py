"""A checkpoint of one class list for a model of another: classes of the same name keep their weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import WeightsError, listing
from .detector import SCORES

#: VOC's names of classes, and COCO's.
SYNONYMS = {'aeroplane': 'airplane', 'motorbike': 'motorcycle', 'sofa': 'couch', 'tvmonitor': 'tv'}

#: Keys of predictors with one row for each class: of segmenters, their auxiliary heads included, and of classifiers.
_ROWS = re.compile(r'((decode|auxiliary)_head(\.\d+)?\.(conv|skip)_seg|head\.(logits|fc))\.(weight|bias)')


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

    Raises:
        WeightsError: No predictor of classes is among the weights that can be rearranged.
    """
    positions = {plain(name): i for i, name in enumerate(old)}
    sources = [positions.get(plain(name)) for name in new]
    kept = [i for i, source in enumerate(sources) if source is not None]
    taken = [source for source in sources if source is not None]
    result, done = dict(state_dict), 0
    for key, value in state_dict.items():
        if SCORES.fullmatch(key) and key in own:
            before = value.unflatten(0, (-1, len(old) + 1))  # (anchors, classes and background, ...)
            after = own[key].detach().clone().unflatten(0, (-1, len(new) + 1))
            after[:, [*kept, len(new)]] = before[:, [*taken, len(old)]].to(after)
            result[key] = after.flatten(0, 1)
            done += 1
        elif _ROWS.fullmatch(key) and key in own and len(value) == len(old) and len(own[key]) == len(new):
            after = own[key].detach().clone()
            after[kept] = value[taken].to(after)
            result[key] = after
            done += 1
    if not done:
        raise WeightsError(
            f'the checkpoint has the classes {listing(old, 5)}, the data set {listing(new, 5)}, and the predictors of '
            "this model cannot be transferred: let its head start fresh with CheckedLoadHook's fresh=['bbox_head']"
        )
    names = {i: name for i, name in enumerate(new)}
    return Transfer(
        result, tuple(names[i] for i in kept), tuple(name for i, name in names.items() if sources[i] is None)
    )


def plain(name: str) -> str:
    """A name as it is compared: without case, spaces and hyphens, and COCO's of several."""
    bare = re.sub(r'[\s_-]', '', name.lower())
    return SYNONYMS.get(bare, bare)
