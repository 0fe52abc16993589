"""The main job on the embedded data set: trains a detector, evaluates it, draws curves and pictures."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from mnv2_backbone.curves import plot_curves, read_scalars
from mnv2_backbone.toydata import contact_sheet, write_toy_dataset

ROOT = Path(__file__).parents[1]
#: What the held-out pictures must reach; the detector is broken below it.
TARGET_AP50 = 0.60


def main() -> int:
    """Runs the command line; the exit status is 1 where the result falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/demo')
    args = parser.parse_args()
    began = time.monotonic()
    data = write_toy_dataset(ROOT / 'data/toy')
    print(f'data set: {data} ({time.monotonic() - began:.0f} s)', flush=True)

    def tool(name: str, *arguments: str | Path) -> None:
        command = [sys.executable, ROOT / 'tools' / name, ROOT / 'configs/ssdlite_mnv2_demo.py', *arguments]
        if status := subprocess.run(command, cwd=ROOT).returncode:
            sys.exit(status)

    trained = time.monotonic()
    tool('train.py', '--work-dir', args.work_dir)
    seconds = time.monotonic() - trained
    checkpoint = Path((args.work_dir / 'last_checkpoint').read_text().strip())
    tool('test.py', checkpoint, '--work-dir', args.work_dir / 'test', '--show-dir', 'pictures')

    curves = plot_curves(args.work_dir, args.work_dir / 'curves.png')
    newest = max((args.work_dir / 'test').glob('*/pictures'), key=lambda path: path.stat().st_mtime)
    pictures = [np.asarray(cv2.imread(str(path))) for path in sorted(newest.glob('*'))[:12]]
    sheet = args.work_dir / 'predictions.jpg'
    cv2.imwrite(str(sheet), contact_sheet(pictures, columns=3, width=1600))

    _, scores = read_scalars(args.work_dir)
    ap50 = scores['coco/bbox_mAP_50'][-1][1]
    print(f'\nAP {scores["coco/bbox_mAP"][-1][1]:.3f}, AP50 {ap50:.3f} after {seconds:.0f} s of training')
    print(f'curves:      {curves}\npredictions: {sheet} (truth on the left, found on the right)')
    if ap50 < TARGET_AP50:
        print(f'error: AP50 is below {TARGET_AP50}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
