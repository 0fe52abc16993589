"""The curves of a run, from the log that mmengine writes beside its checkpoints."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

#: The scores that are drawn where a run has them.
SCORES = ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_s', 'pascal_voc/mAP', 'mIoU', 'aAcc')

Series = dict[str, list[tuple[float, float]]]


def read_scalars(work_dir: Path) -> tuple[Series, Series]:
    """Reads all runs in a work folder, in order of time; a resumed one goes on where it left off.

    Args:
        work_dir: The ``--work-dir`` of a training.

    Returns:
        The losses by iteration, and the scores by epoch (or iteration, as the run counts).

    Raises:
        FileNotFoundError: There is no log in the folder.
    """
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'{work_dir} holds no log of a training (*/vis_data/scalars.json)')
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
    """Draws losses and scores side by side.

    Args:
        work_dir: The ``--work-dir`` of a training.
        out: The picture to write (.png, .svg, .pdf).

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: There is no log in the folder.
    """
    from matplotlib.figure import Figure  # no window, whatever the machine

    losses, scores = read_scalars(work_dir)
    figure = Figure(figsize=(10, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    for name, points in losses.items():
        left.plot(*zip(*points), label=name, linewidth=2 if name == 'loss' else 1)
    left.set(xlabel='iteration', ylabel='loss', title='training loss', ylim=(0, None))
    for name, points in scores.items():
        right.plot(*zip(*points), label=name.removeprefix('coco/'), marker='o', markersize=3)
    right.set(xlabel='epoch', ylabel='score', title='held-out pictures', ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
