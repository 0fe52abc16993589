"""Draws the loss and score curves of a training, from the logs that mmengine writes beside its checkpoints."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_backbone.errors import UserError, command

#: The scores that are drawn if a run has them.
SCORES = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_s', 'pascal_voc/mAP', 'mIoU', 'aAcc')

Series = dict[str, list[tuple[float, float]]]


def read_scalars(work_dir: Path) -> tuple[Series, Series]:
    """Reads all runs in a ``--work-dir``, in order of time; a resumed one continues the one before.

    Returns:
        The losses by iteration, and the scores by epoch (or iteration, as the run counts).

    Raises:
        UserError: There is no log in the folder.
    """
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        raise UserError(f'{work_dir} holds no log of a training (*/vis_data/scalars.json)')
    losses, scores = defaultdict(dict), defaultdict(dict)  # type: ignore[var-annotated]
    for log in logs:
        for line in log.read_text().splitlines():
            row = json.loads(line)
            for name, value in row.items():
                if 'loss' in name and 'iter' in row:
                    losses[name][row.get('step', row['iter'])] = value
                elif name in SCORES:
                    scores[name][row['step']] = value

    def in_order(series: dict[str, dict[float, float]]) -> Series:
        return {name: sorted(points.items()) for name, points in series.items()}

    return in_order(losses), in_order(scores)


def plot_curves(work_dir: Path, out: Path) -> Path:
    """Draws losses and scores of a ``--work-dir`` side by side to an image file, which is returned."""
    losses, scores = read_scalars(work_dir)
    figure, (left, right) = _panels()
    for name, points in losses.items():
        left.plot(*zip(*points), label=name, linewidth=2 if name == 'loss' else 1)
    for name, points in scores.items():
        right.plot(*zip(*points), label=name.removeprefix('coco/'), marker='o', markersize=3)
    return _save(figure, out)


def compare_curves(runs: Mapping[str, Sequence[Path]], score: str, out: Path) -> Path:
    """Draws the losses and one score of several models, with a ``--work-dir`` for each of their seeds."""
    figure, (left, right) = _panels()
    for number, (name, work_dirs) in enumerate(runs.items()):
        for seed, work_dir in enumerate(work_dirs):
            losses, scores = read_scalars(work_dir)
            style = dict(color=f'C{number}', alpha=0.8, label=name if seed == 0 else None)
            left.plot(*zip(*losses['loss']), linewidth=1, **style)
            right.plot(*zip(*scores[score]), marker='o', markersize=3, **style)
    right.set(ylabel=score)
    return _save(figure, out)


def _panels() -> tuple[Any, Any]:
    """A figure with a panel for losses and one for scores."""
    from matplotlib.figure import Figure  # no window, whatever the machine

    figure = Figure(figsize=(10, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.set(xlabel='iteration', ylabel='loss', title='training loss')
    right.set(xlabel='epoch', ylabel='score', title='held-out images')
    right.locator_params(axis='x', integer=True)  # no half epochs
    return figure, (left, right)


def _save(figure: Any, out: Path) -> Path:
    """Finishes the panels and writes the image."""
    for axes in figure.axes:
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='the --work-dir of the training')
    parser.add_argument('--out', type=Path, help='the image file (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    print(plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
