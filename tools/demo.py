"""The main job on the toy data set: ``mnv2 finetune`` trains, evaluates, draws and exports."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from finetune import finetune, parse
from toy.dataset import write_toy_dataset
from toy.scene import CLASSES

from mnv2_backbone.errors import command

ROOT = Path(__file__).parents[1]
#: For each task its options, and the score that the held-out images must reach: below it the model is broken.
TASKS = {
    'detect': (['--size', '240', '240', '--epochs', '4'], 'AP50', 0.60),
    'segment': (['--size', '257', '257', '--epochs', '7', '--classes', 'ground', *CLASSES], 'mIoU', 0.60),
}


@command
def main() -> int:
    """Runs the command line; the exit status is 1 if the result falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=TASKS, default='detect')
    task = parser.parse_args().task
    options, score, least = TASKS[task]
    began = time.monotonic()
    data = write_toy_dataset(ROOT / 'data/toy')
    print(f'data set: {data} ({time.monotonic() - began:.0f} s)', flush=True)

    work_dir = ROOT / 'work_dirs' / ('demo' if task == 'detect' else 'demo_segment')
    shutil.rmtree(work_dir, ignore_errors=True)  # of an earlier demo
    work_dir.mkdir(parents=True)
    args = parse([str(data), '--task', task, *options, '--work-dir', str(work_dir)])
    began = time.monotonic()
    scores = finetune(args, work_dir)
    assert scores is not None, 'no dry run'
    print(f'\n{score} {scores.overall[score]:.3f} after {time.monotonic() - began:.0f} s of training, test and export')
    if scores.overall[score] < least:
        print(f'error: {score} is below {least:g}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
