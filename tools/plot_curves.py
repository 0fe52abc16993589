"""Draws the loss and score curves of a training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mnv2_backbone.curves import plot_curves


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='the --work-dir of the training')
    parser.add_argument('--out', type=Path, help='the picture (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    try:
        print(plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png'))
    except FileNotFoundError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
