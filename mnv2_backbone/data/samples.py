"""Annotated images of any source: checked and split."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, listing
from .folder import SPLITS

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """An annotated object: its class, its box (left, top, right, bottom) in pixels, and its outline if known.

    ``outline`` is what COCO has as ``segmentation``: polygons (x1, y1, x2, y2, ...) or run lengths.
    """

    label: str
    box: Box
    outline: Any = None
    ignore: bool = False

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass
class Sample:
    """An image of (width, height) with its objects or its mask; ``split`` is empty if nothing names one.

    ``numbers`` are the classes in the mask.
    """

    image: Path
    size: tuple[int, int]
    things: list[Thing] = field(default_factory=list)
    mask: Path | None = None
    split: str = ''
    numbers: set[int] = field(default_factory=set)

    @property
    def labels(self) -> set[str]:
        """What classes it has, by name, or by number if it has a mask."""
        return {thing.label for thing in self.things} | {str(number) for number in self.numbers}


class Faults:
    """What is wrong, by kind, with the names of the files."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, name: str) -> None:
        """Counts one."""
        self.kinds[kind].append(name)

    def lines(self) -> list[str]:
        """A line for each kind."""
        return [f'{len(names)} {kind}: {listing(list(dict.fromkeys(names)), 4)}' for kind, names in self.kinds.items()]


def clean(samples: Iterable[Sample], faults: Faults) -> None:
    """Removes boxes that nothing can be learned from, and clips the others to their images."""
    for sample in samples:
        width, height = sample.size
        kept: dict[tuple[str, Box, str], Thing] = {}
        for thing in sample.things:
            left, top, right, bottom = thing.box
            box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            if not all(map(math.isfinite, thing.box)) or right - left < 1 or bottom - top < 1:
                faults.add('boxes smaller than a pixel, left out', sample.image.name)
            elif box[2] - box[0] < 1 or box[3] - box[1] < 1:
                faults.add('boxes outside their images, left out', sample.image.name)
            elif (key := (thing.label, box, repr(thing.outline))) in kept:
                faults.add('boxes drawn twice, counted once', sample.image.name)
            else:
                if max(abs(a - b) for a, b in zip(box, thing.box)) > 2:  # less is rounding
                    faults.add('boxes that reach beyond their images, clipped', sample.image.name)
                kept[key] = replace(thing, box=box)
        sample.things = list(kept.values())


def divide(samples: Sequence[Sample], share: float, seed: int, faults: Faults) -> str:
    """Gives every sample a split, and returns what was done. Splits that exist are kept.

    Without images for validation a seeded part of the training images is taken, such that each class has about its
    share in it. Images that belong to no split where others do are left without one.
    """
    found = Counter(sample.split for sample in samples)
    named = [split for split in SPLITS if found[split]]
    if named == ['train'] or (len(named) < 2 and not found['']):  # a single name is what some tools call everything
        for sample in samples:
            sample.split = 'train'
        named = ['train']
    elif 'train' not in named and found['']:
        for sample in samples:
            sample.split = sample.split or 'train'
    elif 'train' not in named:
        raise UserError('there are images for val and test, but none to train on: call their folder train')
    elif found['']:
        for sample in samples:
            if not sample.split:
                faults.add('images that belong to no split, not used', sample.image.name)
    if 'val' in named:
        return 'the splits are kept as they are'
    train = [sample for sample in samples if sample.split == 'train']
    photos: dict[str, list[Sample]] = defaultdict(list)
    for sample in train:
        photos[str(sample.image).partition('.rf.')[0]].append(sample)
    chosen = _stratified(list(photos.values()), share, seed)
    for sample in chosen:
        sample.split = 'val'
    together = "; Roboflow's copies of a photo stay together" if len(photos) < len(train) else ''
    return f'{len(chosen)} of the training images are set aside for validation (seed {seed}){together}'


def _stratified(groups: Sequence[list[Sample]], share: float, seed: int) -> list[Sample]:
    """A part of the samples, by groups; rare classes are dealt with first."""
    order = [(set[str]().union(*(sample.labels for sample in group)) or {''}, group) for group in groups]
    counts = Counter(label for names, _ in order for label in names)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda pair: min(counts[name] for name in pair[0]))
    seen, taken, chosen = Counter[str](), Counter[str](), []
    for names, group in order:
        rarest = min(names, key=lambda name: (counts[name], name))
        seen.update(names)
        if taken[rarest] < math.floor(seen[rarest] * share + 0.5) and counts[rarest] > 1:
            taken.update(names)
            chosen += group
    return chosen or ([*order[0][1]] if len(order) > 1 else [])
