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
#: The side of the input that Google's detectors were trained at. Where the median object takes a smaller share of the
#: image's sides than LARGE, a larger input with anchors that keep their size in pixels is better, as for blood cells;
#: where it takes more, such anchors are too small, as for VOC.
NATIVE, LARGE = {'ssdlite': 300, 'fpnlite': 320}, 0.3
#: The larger sides; the second is for data sets of which a tenth of the objects has below SMALL pixels at the first.
SIDES, SMALL = (480, 640), 20
#: The side of a segmenter's input, in the shape of the images.
SEGMENT = 416
BATCH = 8
LR = {'detect': 7e-4, 'segment': 1e-3}
IMAGENET = 'mnv2://imagenet-1.0'
WEIGHTS = {'ssdlite': 'mnv2://ssdlite-coco', 'fpnlite': IMAGENET, 'deeplab': IMAGENET}


@dataclass
class Choices:
    """What is trained; ``reasons`` has a line for each choice, by its name.

    ``model`` is one of :data:`WEIGHTS`, ``size`` the (width, height) of the input, ``reference`` the side that anchors
    refer to (None: the input's own).
    """

    task: str
    model: str
    size: tuple[int, int]
    weights: str
    batch: int
    epochs: int
    lr: float
    reference: int | None
    keep_colours: bool
    reasons: dict[str, str] = field(default_factory=dict)


def interval(epochs: int) -> int:
    """The epochs from one validation to the next."""
    return max(1, round(epochs / 15))


def choose(
    data: Data,
    task: str | None = None,
    detector: str = 'ssdlite',
    size: tuple[int, int] | None = None,
    weights: str | None = None,
    batch: int | None = None,
    epochs: int | None = None,
    keep_colours: bool = False,
) -> Choices:
    """Decides what is not given."""
    reasons = dict.fromkeys(('task', 'size', 'weights', 'epochs'), 'as asked')
    if task is None:
        task = 'segment' if data.masks else 'detect'
        reasons['task'] = f'the annotations are {"masks" if data.masks else "boxes"} ({data.format})'
    model = 'deeplab' if task == 'segment' else detector
    if size is None:
        size, reasons['size'] = _size(data, model)
    if weights is None:
        weights = WEIGHTS[model]
        reasons['weights'] = _kept(weights, data.classes)
    train = len(data.of('train'))
    batch = max(min(batch or BATCH, train), 2)
    if epochs is None:
        steps = max(train // batch, 1)
        epochs = min(max(math.ceil(STEPS / steps), EPOCHS[0]), EPOCHS[1])
        reasons['epochs'] = f'{epochs * steps} steps of {batch} images; there are {train} to learn from'
    native = NATIVE['ssdlite']
    larger = model == 'ssdlite' and max(size) > native
    reference = native if larger and _median_side(data) < LARGE else None
    return Choices(task, model, size, weights, batch, epochs, LR[task], reference, keep_colours, reasons)


def _kept(weights: str, classes: Sequence[str]) -> str:
    if weights == IMAGENET:
        return 'the backbone is trained on ImageNet, the head starts fresh'
    known = set(map(plain, CocoDataset.METAINFO['classes']))
    kept = [name for name in classes if plain(name) in known]
    return f'trained on COCO; classes it shares with this data: {listing(kept, 5) or "none"}'


def _median_side(data: Data) -> float:
    return float(np.median(relative_sides(data.samples))) if any(sample.things for sample in data.samples) else 1.0


def _size(data: Data, model: str) -> tuple[tuple[int, int], str]:
    """The input's (width, height), and why: a square for the detector, which was trained on squares."""
    if model not in NATIVE:
        aspect = float(np.median([sample.size[0] / sample.size[1] for sample in data.samples]))
        aspect = min(max(aspect, 0.5), 2.0)
        size = (32 * round(SEGMENT * aspect**0.5 / 32), 32 * round(SEGMENT / aspect**0.5 / 32))
        return size, f'the shape of the images, {aspect:.2f} wide to 1 high'
    middle = _median_side(data)
    if middle >= LARGE:
        return (NATIVE[model],) * 2, f'the median object is large, {100 * middle:.0f} % of the image'
    small = float(np.quantile(relative_sides(data.samples), 0.1)) * SIDES[0]
    side = SIDES[small < SMALL]
    reason = f'the median object is {100 * middle:.0f} % of the image'
    return (side, side), reason + (
        f', and a tenth would be below {small:.0f} pixels at {SIDES[0]}' if small < SMALL else ''
    )


def print_choices(choices: Choices, config: Path, console: Console) -> None:
    """Prints what will be trained, and why."""
    values = dict(choices.__dict__, size='{}x{}'.format(*choices.size))
    for name, reason in choices.reasons.items():
        console.print(f'{name:>8}  {values[name]!s:<20} {reason}', markup=False)
    console.print(f'{"config":>8}  {config}', markup=False)
