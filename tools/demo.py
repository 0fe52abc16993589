"""Fine-tunes on a data set that is drawn here, as ``mnv2 finetune`` does it with yours; fails if the model is poor."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from toy.dataset import write_toy_dataset
from toy.scene import CLASSES

ROOT = Path(__file__).parents[1]
#: The options of ``mnv2 finetune``, and the score that the held-out images must reach: below it the model is broken.
TASKS = {
    'detect': ('--size 240 240 --epochs 8 --lr 2e-3 --keep-colours', 'AP50', 0.60),
    'segment': (f'--task segment --size 256 256 --epochs 7 --classes nothing {" ".join(CLASSES)}', 'mIoU', 0.60),
}


def main() -> int:
    """Runs the command line; the exit status is 1 if the result falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', nargs='?', choices=TASKS, default='detect')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo, work_dirs/demo_segment')
    args = parser.parse_args()
    options, score, least = TASKS[args.task]
    began = time.monotonic()
    data = write_toy_dataset(ROOT / 'data/toy')
    print(f'data set: {data} ({time.monotonic() - began:.0f} s)', flush=True)

    work_dir = args.work_dir or ROOT / 'work_dirs' / ('demo' if args.task == 'detect' else 'demo_segment')
    if args.work_dir is None:
        shutil.rmtree(work_dir, ignore_errors=True)  # of an earlier demo
    began = time.monotonic()
    command = [sys.executable, ROOT / 'tools/finetune.py', data, '--work-dir', work_dir, *options.split()]
    if status := subprocess.run(command, cwd=ROOT).returncode:
        return status
    value = json.loads((work_dir / 'scores.json').read_text())[score]
    print(f'\n{score} {value:.3f}, {time.monotonic() - began:.0f} s for training and scores')
    if value < least:
        print(f'error: {score} is below {least:g}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
