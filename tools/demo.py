"""The main job on the toy data set: trains, evaluates, draws curves and predictions."""

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from plot_curves import plot_curves, read_scalars
from sheet import contact_sheet
from toy.dataset import write_toy_dataset

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Task:
    """A demo.

    Attributes:
        config: What is trained.
        score: What is evaluated.
        least: The score that the held-out images must reach: below it the model is broken.
        every: The interval of the held-out batches that are drawn: the first image for boxes, all for masks.
    """

    config: str
    score: str
    least: float
    every: int


TASKS = {
    'detect': Task('ssdlite_mnv2_demo.py', 'coco/bbox_mAP_50', 0.60, every=1),
    'segment': Task('deeplabv3lite_mnv2_demo.py', 'mIoU', 60.0, every=8),
}


def main() -> int:
    """Runs the command line; the exit status is 1 if the result falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=TASKS, default='detect')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo, work_dirs/demo_segment')
    args = parser.parse_args()
    task = TASKS[args.task]
    work_dir = args.work_dir or ROOT / 'work_dirs' / ('demo' if args.task == 'detect' else 'demo_segment')
    began = time.monotonic()
    data = write_toy_dataset(ROOT / 'data/toy')
    print(f'data set: {data} ({time.monotonic() - began:.0f} s)', flush=True)

    if args.work_dir is None:
        shutil.rmtree(work_dir, ignore_errors=True)  # of an earlier demo
    began = time.monotonic()
    draw = [f'default_hooks.visualization.{option}' for option in ('draw=True', f'interval={task.every}')]
    config = ROOT / 'configs' / task.config
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--cfg-options', *draw]
    if status := subprocess.run(command, cwd=ROOT).returncode:
        return status
    seconds = time.monotonic() - began

    curves = plot_curves(work_dir, work_dir / 'curves.png')
    run = max(work_dir.glob('*/vis_data'))  # named by its time
    found = sorted(run.glob('vis_image/*'), key=lambda path: path.stat().st_mtime_ns)[-12:]  # of the last evaluation
    images = [np.asarray(cv2.imread(str(path))) for path in found]
    sheet = work_dir / 'predictions.jpg'
    cv2.imwrite(str(sheet), contact_sheet(images, columns=3, width=1600))

    _, scores = read_scalars(work_dir)
    last = {name: points[-1][1] for name, points in scores.items()}
    print('\n' + ', '.join(f'{name} {value:g}' for name, value in last.items()), end=' ')
    print(f'after {seconds:.0f} s of training\ncurves:      {curves}')
    print(f'predictions: {sheet} (truth on the left, found on the right)')
    if last[task.score] < task.least:
        print(f'error: {task.score} is below {task.least:g}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
