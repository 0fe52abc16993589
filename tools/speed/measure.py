"""Running the variants of a task in turns, and the rows that result."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .variants import Variant
from .workers import Failed, Missing, Worker

#: Iterations of one turn, and the number of first ones that do not count: the caches hold the data of another variant.
TURN = (6, 1)
#: A step of training takes seconds.
TRAINING_TURN = (2, 0)


@dataclass(frozen=True)
class Row:
    """What was measured of one variant.

    Attributes:
        task, name, precision: Of the :class:`speed.variants.Variant`.
        median_ms, p10_ms, p90_ms: Milliseconds of one iteration.
        peak_mb: Most memory that the variant's process had resident, in MiB; with its data loaders', if it has any.
        images_per_s: Images a second, from the median.
        x_floor: The median divided by the time of a float32 matrix product with as many multiply-adds; None for our
            fast forms if the trained one, whose multiply-adds they do, was not measured.
        speed: Images a second divided by those of the task's slowest peer; None if no peer was measured.
        max_abs_diff: Distance of the output from that of ours as trained, see :data:`DIFFERENCES`; None for peers.
    """

    task: str
    name: str
    precision: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    peak_mb: float | None
    images_per_s: float
    x_floor: float | None
    speed: float | None
    max_abs_diff: float | None


@dataclass
class Measured:
    """A variant's worker and what it has sent so far: ``facts`` when it was ready, then seconds and bytes."""

    variant: Variant
    worker: Worker
    facts: dict[str, Any]
    times: list[float]
    peak: int | None = None


def run_task(
    variants: Sequence[Variant], common: Mapping[str, Any], threads: int, repeats: int, say: Callable[[str], None]
) -> tuple[list[Row], float, list[str]]:
    """Measures the variants of one task.

    All are started, then each in turn runs for a few iterations, again and again, so that a disturbance of the machine
    affects all of them. A matrix product takes part, as a measure of the machine in the same minutes. ``common`` are
    options that every variant gets, ``folder`` for its files among them; ``say`` is called with a line of progress.

    Returns:
        The rows; the machine's rate in float32 multiply-adds a second; and a line on each variant that could not be
        measured.
    """
    log = Path(common['folder'], 'log.txt')
    lines: list[str] = []
    running: list[Measured] = []
    product = Variant(variants[0].task, 'matrix product', 'fp32', 'peers:matrix_product')

    def note(variant: Variant, error: Failed) -> None:
        lines.append(f'{variant.task}: {variant.name}, {variant.precision} failed: {error}')

    with ExitStack() as stack:
        for variant in (product, *variants):
            say(f'{variant.task}: starting {variant.name}, {variant.precision}')
            worker = stack.enter_context(
                Worker(variant.runs, {**common, 'precision': variant.precision, **variant.options}, threads, log)
            )
            try:
                running.append(Measured(variant, worker, worker.ready(), []))
            except Missing as error:
                lines.append(f'{variant.task}: no {variant.name}, {variant.precision}: {error}')
            except Failed as error:
                note(variant, error)
        turn, cold = TRAINING_TURN if variants[0].task == 'train' else TURN
        rounds = -(-repeats // (turn - cold))
        for number in range(rounds):
            say(f'{variants[0].task}: round {number + 1} of {rounds}')
            for one in tuple(running):
                try:
                    one.times += one.worker.turn(turn)[cold:]
                except Failed as error:
                    if one.variant is product:
                        raise
                    running.remove(one)
                    note(one.variant, error)
                    continue
                one.peak = max(one.peak or 0, one.worker.peak_bytes() or 0) or None
    machine, *measured = running
    rate = machine.facts['madds'] / float(np.median(machine.times))
    return _rows(measured, rate), rate, lines


def _rows(measured: Sequence[Measured], rate: float) -> list[Row]:
    def seconds(one: Measured) -> float:
        return float(np.median(one.times)) / one.facts.get('batch', 1)

    trained = next((one for one in measured if one.variant.name == 'ours-trained'), None)
    slowest = max((seconds(one) for one in measured if one.variant.is_peer), default=None)
    rows = []
    for one in measured:
        variant = one.variant
        madds: int | None = one.facts.get('madds') or (trained.facts['madds'] if trained else None)
        low, middle, high = (1000 * float(x) for x in np.percentile(one.times, (10, 50, 90)))
        compared = trained is not None and not variant.is_peer and one.facts.get('output') is not None
        rows.append(
            Row(
                task=variant.task,
                name=variant.name,
                precision=variant.precision,
                median_ms=middle,
                p10_ms=low,
                p90_ms=high,
                peak_mb=one.peak and one.peak / 2**20,
                images_per_s=1 / seconds(one),
                x_floor=madds and seconds(one) * rate / madds,
                speed=slowest and slowest / seconds(one),
                max_abs_diff=DIFFERENCES[variant.task](trained.facts['output'], one.facts['output'])
                if trained and compared
                else None,
            )
        )
    return rows


def boxes_differ(ours: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float | None:
    """The largest difference between the scores of boxes with one label that overlap by more than 0.9.

    None if no two boxes (``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,)) belong together.
    """
    import torch
    from torchvision.ops import box_iou

    iou = box_iou(*(torch.from_numpy(x['bboxes']) for x in (ours, other))).numpy()
    same = (ours['labels'][:, None] == other['labels'][None]) & (iou > 0.9)
    difference = np.abs(ours['scores'][:, None] - other['scores'][None])
    # A box may have several partners: the one with the nearest score is its own.
    nearest = np.where(same, difference, np.inf).min(1, initial=np.inf)
    return float(nearest[np.isfinite(nearest)].max()) if np.isfinite(nearest).any() else None


#: How outputs are compared, by task: largest difference of features, of the scores of boxes, share of other labels.
DIFFERENCES: dict[str, Callable[[Any, Any], float | None]] = {
    'backbone': lambda ours, other: float(np.abs(ours - other).max()),
    'detect': boxes_differ,
    'fpnlite': boxes_differ,
    'segment': lambda ours, other: float((ours != other).mean()),
}
