"""How much longer an exported detector or segmenter takes from an image to its result than its network alone.

The network gets an image of its own size; the whole is resizing, network, decoding and NMS. They take turns, and each
is run once before it is timed. Meant for a machine that does nothing else.

    python tools/overhead.py data/coco/val2017 detector.onnx detector.tflite --threads 2
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mnv2_backbone.data.images import LoadImage
from mnv2_backbone.deployment.predictor import Predictor
from mnv2_backbone.deployment.raw import RunRaw
from mnv2_backbone.errors import UserError, command
from mnv2_backbone.training.cpu import keep_freed_memory


def network_of(predictor: Predictor, image: np.ndarray) -> Callable[[], object]:
    """The network alone, on an image that has been resized."""
    run: Any = predictor.run
    batch = (
        run.prepare(image) if isinstance(run, RunRaw) else np.ascontiguousarray(predictor.recipe.resize(image)[None])
    )
    return partial(run.run, batch)


def seconds(call: Callable[[], object]) -> float:
    """How long it takes the second time."""
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@command
def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of .jpg images')
    parser.add_argument('files', type=Path, nargs='+', help='exported files')
    parser.add_argument('--number', type=int, default=24, help='of images, the first by name (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='with every image (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=2, help='that each computes with (default: %(default)s)')
    args = parser.parse_args()
    for option in ('number', 'rounds', 'threads'):
        if getattr(args, option) < 1:
            raise UserError(f'--{option} {getattr(args, option)}: allowed are integers from 1')
    paths = sorted(args.images.glob('*.jpg'))[: args.number]
    if not paths:
        raise UserError(f'{args.images}: there are no .jpg images in it')
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    load = LoadImage()
    photos = [load(dict(img_path=str(path)))['img'] for path in paths]
    for path in args.files:
        predictor = Predictor.from_file(path, args.threads)
        network = network_of(predictor, photos[0])
        pairs = [(seconds(network), seconds(partial(predictor, [photo]))) for photo in photos * args.rounds]
        alone, whole = (1e3 * statistics.median(times) for times in zip(*pairs))
        print(f'{path}: network {alone:.1f} ms, image to result {whole:.1f} ms, {whole / alone:.2f} times', flush=True)
    return 0


if __name__ == '__main__':
    keep_freed_memory()
    sys.exit(main())
