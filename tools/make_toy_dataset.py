"""Writes the embedded data set of drawn shapes, in COCO's layout."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2

from mnv2_backbone.toydata import SceneOptions, annotate, contact_sheet, scene_at, write_toy_dataset


def main() -> int:
    """Runs the tool; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        'out', type=Path, help='folder of the data set; new, empty, or an earlier set'
    )
    parser.add_argument('--train', type=int, default=600, help='number of training pictures')
    parser.add_argument('--val', type=int, default=150, help='number of held-out pictures')
    parser.add_argument('--seed', type=int, default=0, help='other seeds draw other pictures')
    side = SceneOptions.side
    parser.add_argument(
        '--side', type=int, nargs=2, default=side, metavar=('MIN', 'MAX'), help='height and width'
    )
    parser.add_argument(
        '--workers',
        type=int,
        help='threads; does not change the result (default: cores, at most 4)',
    )
    parser.add_argument(
        '--preview', type=Path, help='also save a sheet of held-out pictures with boxes and masks'
    )
    args = parser.parse_args()

    start = time.perf_counter()
    try:
        options = SceneOptions(side=tuple(args.side))
        out = write_toy_dataset(args.out, args.train, args.val, args.seed, options, args.workers)
        if args.preview:
            scenes = (scene_at(args.seed, 'val', k, options) for k in range(min(args.val, 8)))
            args.preview.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(
                str(args.preview), contact_sheet([annotate(scene) for scene in scenes])
            ):
                raise OSError(f'cannot write {args.preview}')
    except (ValueError, OSError, cv2.error) as error:
        print(f'make_toy_dataset: {error}', file=sys.stderr)
        return 2
    print(
        f'{out}: {args.train} + {args.val} pictures, ready in {time.perf_counter() - start:.1f} s'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
