"""What is trained for a data set, and why: task, input size, batch size, epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from rich.console import Console

from mnv2_backbone.errors import listing
from mnv2_backbone.weights.transfer import plain

from .data import Data, relative_sides

#: Steps of the optimizer that a few hundred images are worth, and the epochs that this comes to at the least and most.
STEPS, EPOCHS = 1100, (12, 60)
#: Pixels of the input by default, and for objects too small for it.
PIXELS, PIXELS_SMALL = 416 * 416, 512 * 512
#: A small object has this many pixels on its sides at the default size.
SMALL = 20
BATCH = 8
LR = {'detect': 7e-4, 'segment': 1e-3}
WEIGHTS = {'detect': 'mnv2://ssdlite-coco', 'segment': 'mnv2://imagenet-1.0'}


@dataclass
class Choices:
    """What is trained; ``reasons`` has a line for each choice, by its name.

    ``size`` is the (width, height) of the input.
    """

    task: str
    size: tuple[int, int]
    weights: str
    batch: int
    epochs: int
    lr: float
    reasons: dict[str, str] = field(default_factory=dict)


def choose(
    data: Data,
    task: str | None = None,
    size: tuple[int, int] | None = None,
    weights: str | None = None,
    batch: int | None = None,
    epochs: int | None = None,
) -> Choices:
    """Decides what is not given."""
    reasons = dict.fromkeys(('task', 'size', 'weights', 'epochs'), 'as asked')
    if task is None:
        task = 'segment' if data.masks else 'detect'
        reasons['task'] = f'the annotations are {"masks" if data.masks else "boxes"} ({data.format})'
    if size is None:
        size, reasons['size'] = _size(data, task)
    if weights is None:
        weights = WEIGHTS[task]
        reasons['weights'] = _kept(weights, data.classes)
    train = len(data.of('train'))
    batch = max(min(batch or BATCH, train), 2)
    if epochs is None:
        steps = max(train // batch, 1)
        epochs = min(max(math.ceil(STEPS / steps), EPOCHS[0]), EPOCHS[1])
        reasons['epochs'] = f'{epochs * steps} steps of {batch} images; there are {train} to learn from'
    return Choices(task, size, weights, batch, epochs, LR[task], reasons)


def _kept(weights: str, classes: Sequence[str]) -> str:
    if weights != WEIGHTS['detect']:
        return 'the backbone is trained on ImageNet, the head starts fresh'
    known = set(map(plain, CocoDataset.METAINFO['classes']))
    kept = [name for name in classes if plain(name) in known]
    return f'trained on COCO, which has of the classes {listing(kept, 5) or "none"}'


def _size(data: Data, task: str) -> tuple[tuple[int, int], str]:
    """The input's (width, height): multiples of 32 in the images' usual shape."""
    aspect = float(np.median([sample.size[0] / sample.size[1] for sample in data.samples]))
    aspect = min(max(aspect, 0.5), 2.0)
    sides = relative_sides(data.samples)
    small = float(np.quantile(sides, 0.1)) * PIXELS**0.5 if len(sides) else math.inf
    pixels = PIXELS_SMALL if small < SMALL else PIXELS
    size = (32 * round((pixels * aspect) ** 0.5 / 32), 32 * round((pixels / aspect) ** 0.5 / 32))
    reason = f'the shape of the images ({aspect:.2f} wide to 1 high)'
    if task == 'detect' and len(sides):
        which = 'large, for small objects' if pixels == PIXELS_SMALL else 'the usual size'
        reason = f'{which}: a tenth of the objects is below {small:.0f} pixels there; {reason}'
    return size, reason


def print_choices(choices: Choices, config: Path, console: Console) -> None:
    """Prints what will be trained, and why."""
    values = dict(choices.__dict__, size='{}x{}'.format(*choices.size))
    for name, reason in choices.reasons.items():
        console.print(f'{name:>8}  {values[name]!s:<20} {reason}', markup=False)
    console.print(f'{"config":>8}  {config}', markup=False)
