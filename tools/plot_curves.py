"""Draws the loss and score curves of a training."""

import argparse
import sys
from pathlib import Path

from curves import plot_curves

from mnv2_backbone.errors import UserError, command


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='the --work-dir of the training')
    parser.add_argument('--out', type=Path, help='the image file (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    try:
        print(plot_curves(args.work_dir, args.out or args.work_dir / 'curves.png'))
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    return 0


if __name__ == '__main__':
    sys.exit(main())
