"""Detects or segments in pictures and videos: draws the results and writes them as JSON.

Without a config it detects COCO's 80 classes with Google's ssdlite_mobilenet_v2_coco, or runs a file that
tools/export.py wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmengine.config import DictAction
from rich.progress import Progress

from mnv2_backbone.deployment.runtimes import is_exported
from mnv2_backbone.errors import UserError
from mnv2_backbone.inference import Predictor, find_sources, predict_picture, predict_video
from mnv2_backbone.runtime.checkpoint import read_weights_only_everywhere
from mnv2_backbone.runtime.options import load_config
from mnv2_backbone.weights.names import WEIGHTS

CONFIGS = Path(__file__).parents[1] / 'configs'
DEFAULT = 'ssdlite-coco'


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='a picture, a folder, a pattern such as "photos/*.jpg", or a video')
    parser.add_argument('--config', help='config of the model (default: that of the weights)')
    parser.add_argument('--weights', help=f'checkpoint, mnv2:// name or exported file (default: mnv2://{DEFAULT})')
    parser.add_argument('--score-thr', type=float, default=0.4, metavar='S', help='least score (default: 0.4)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda:0 ... (default: cpu)')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'), help='default: outputs/')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    read_weights_only_everywhere()
    try:
        return run(args)
    except (UserError, ValueError, OSError, KeyError, TypeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


def _predictor(args: argparse.Namespace) -> Callable[[], Predictor]:
    """Checks what the model is made from; the result makes it."""
    weights = args.weights or f'mnv2://{DEFAULT}'
    if is_exported(weights):
        given = [f'--{option}' for option in ('config', 'cfg-options') if getattr(args, option.replace('-', '_'))]
        if given:
            raise UserError(f'{" and ".join(given)} with --weights {weights}: an exported file is fixed')
        if args.device != 'cpu':
            raise UserError(f'--device {args.device}: exported files run on the cpu')
        return partial(Predictor.from_exported, weights)
    named = WEIGHTS.get(weights.removeprefix('mnv2://'))
    if not args.config and (named is None or named.config is None):
        raise UserError(f'--weights {weights}: name their --config too')
    config = args.config or str(CONFIGS / (named.config if named and named.config else ''))
    return lambda: Predictor.from_checkpoint(load_config(config, args.cfg_options), weights, args.device)


def run(args: argparse.Namespace) -> int:
    """Goes through the files; the exit status is 1 where one could not be read."""
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr}: allowed are numbers from 0 to 1')
    if args.config and not args.weights:
        raise UserError('--config without --weights: a config alone has no trained weights')
    predict = _predictor(args)
    sources = find_sources(args.source)
    predictor = predict()
    failed = []
    with Progress() as progress:
        say = partial(progress.console.print, soft_wrap=True, markup=False, highlight=False)
        task = progress.add_task('files', total=len(sources))
        for source in sources:
            try:
                if source.is_video:
                    frames = progress.add_task(source.path.name, total=None)
                    for total in predict_video(predictor, source, args.out_dir, args.score_thr):
                        progress.update(frames, advance=1, total=total or None)
                else:
                    result = predict_picture(predictor, source, args.out_dir, args.score_thr)
                    if len(sources) == 1:
                        for found in result.get('objects', []):
                            say(f'{found["label"]:>16} {found["score"]:.2f}  {found["box"]}')
            except UserError as error:
                failed.append(source)
                say(f'skipped: {error}')
            progress.advance(task)
    print(f'{len(sources) - len(failed)} of {len(sources)} files done, results in {args.out_dir}/')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
