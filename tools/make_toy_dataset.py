"""Writes the toy data set of drawn shapes, in COCO's layout."""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from sheet import contact_sheet
from toy.dataset import scene_at, write_toy_dataset
from toy.scene import CLASSES, PALETTE, Scene, SceneOptions


def annotate(scene: Scene) -> np.ndarray:
    """The image with outlines, boxes and class names drawn in, (height, width, 3), uint8, BGR."""
    image = scene.image.copy()
    for k, label in enumerate(scene.classes):
        colour = PALETTE[label][::-1]
        contours, _ = cv2.findContours(scene.mask(k).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, colour, 1, cv2.LINE_AA)
        x, y, w, h = scene.box(k)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), colour, 2)
        cv2.putText(image, CLASSES[label], (x, max(y - 4, 10)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return image


def main() -> int:
    """Runs the tool; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out', type=Path, help='folder of the data set; new, empty, or an earlier set')
    parser.add_argument('--train', type=int, default=600, help='number of training images')
    parser.add_argument('--val', type=int, default=150, help='number of held-out images')
    parser.add_argument('--seed', type=int, default=0, help='other seeds draw other images')
    side = SceneOptions.side
    parser.add_argument('--side', type=int, nargs=2, default=side, metavar=('MIN', 'MAX'), help='height and width')
    parser.add_argument('--workers', type=int, help='threads; does not change the result (default: cores, at most 4)')
    parser.add_argument('--preview', type=Path, help='also save a sheet of held-out images with boxes and outlines')
    args = parser.parse_args()

    start = time.perf_counter()
    try:
        options = SceneOptions(side=tuple(args.side))
        out = write_toy_dataset(args.out, args.train, args.val, args.seed, options, args.workers)
        if args.preview:
            scenes = (scene_at(args.seed, 'val', k, options) for k in range(min(args.val, 8)))
            args.preview.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(args.preview), contact_sheet([annotate(scene) for scene in scenes])):
                raise OSError(f'cannot write {args.preview}')
    except (ValueError, OSError, cv2.error) as error:
        print(f'make_toy_dataset: {error}', file=sys.stderr)
        return 2
    print(f'{out}: {args.train} + {args.val} images, ready in {time.perf_counter() - start:.1f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
