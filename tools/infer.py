"""Detects or segments in images and videos: draws the results and writes them as JSON.

Without a config it detects COCO's 80 classes with Google's ssdlite_mobilenet_v2_coco, or runs a file that
mnv2 export wrote.
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from files import FilePredictor, Source, find_sources, write_coco
from mmengine.config import DictAction
from rich.progress import Progress

from mnv2_backbone.deployment.backends import is_exported, open_exported
from mnv2_backbone.errors import UserError, command, listing, setting_up
from mnv2_backbone.training.command_line import check_files
from mnv2_backbone.weights.names import WEIGHTS

DEFAULT = 'ssdlite-coco'


@command
def main() -> int:
    """Runs the command line; the exit status is 1 if a file could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', help='images, videos, folders, or patterns such as "photos/*.jpg"')
    parser.add_argument('--config', help='config of the model (default: that of the weights)')
    parser.add_argument('--weights', help=f'checkpoint, mnv2:// name or exported file (default: mnv2://{DEFAULT})')
    parser.add_argument('--score-thr', type=float, default=0.4, metavar='S', help='lowest score (default: 0.4)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda:0 ... (default: cpu)')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'), help='default: outputs/')
    parser.add_argument(
        '--max-size',
        type=int,
        metavar='PIXELS',
        help='reduce larger images for a segmenter that takes any size (default: a quarter above its training size)',
    )
    parser.add_argument('--coco', type=Path, metavar='FILE', help="write all detections in COCO's JSON, too")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr}: allowed are numbers from 0 to 1')
    if args.max_size is not None and args.max_size < 32:
        raise UserError(f'--max-size {args.max_size}: allowed are integers from 32')
    if args.config and not args.weights:
        raise UserError('--config without --weights: a config alone has no trained weights')
    args.weights = args.weights or f'mnv2://{DEFAULT}'
    check_model(args)
    sources = find_sources(args.sources, args.out_dir)
    check_outputs(args, sources)
    with setting_up():
        predictor = load(args)
        if args.coco and predictor.segments:
            raise UserError(f'--coco is for detectors, {args.weights} is a segmenter')
        if args.max_size and (not predictor.segments or predictor.predictor.resizes):
            raise UserError(f'--max-size {args.max_size}: {args.weights} resizes all images to a size of its own')
        return run(predictor, sources, args.out_dir, args.coco)


def check_outputs(args: argparse.Namespace, sources: list[Source]) -> None:
    """Checks before any work that results can be written, and that a COCO file replaces no source or other result."""
    if args.coco:
        if videos := [str(source.path) for source in sources if source.is_video]:
            raise UserError(f'--coco: videos have no place in a COCO file: {listing(videos, 3)}')
        taken = {os.path.abspath(source.path) for source in sources}
        taken.update(path for source in sources for path in source.results(args.out_dir))
        if os.path.abspath(args.coco) in taken or args.coco.is_dir():
            raise UserError(f'--coco {args.coco}: a source, a result or a folder has this name; take another')
    for option, folder in (('--out-dir', args.out_dir), ('--coco', args.coco and args.coco.parent)):
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f'{option}: nothing can be written to {folder}: {error}') from error


def check_model(args: argparse.Namespace) -> None:
    """Checks what the model is loaded from; sets ``config`` to that of the weights if it is not given."""
    if is_exported(args.weights):
        given = [f'--{option}' for option in ('config', 'cfg-options') if getattr(args, option.replace('-', '_'))]
        if given:
            raise UserError(f'{" and ".join(given)} with --weights {args.weights}: an exported file is fixed')
        if args.device != 'cpu':
            raise UserError(f'--device {args.device}: exported files run on the cpu')
        open_exported(Path(args.weights))
        return
    named = WEIGHTS.get(args.weights.removeprefix('mnv2://')) if '://' in args.weights else None
    if not args.config and '://' in args.weights and (named is None or named.config is None):
        raise UserError(f'--weights {args.weights}: name their --config too')
    args.config = args.config or (named and named.config)
    check_files(args.config, args.weights)


def load(args: argparse.Namespace) -> FilePredictor:
    """The model, ready for files."""
    from mnv2_backbone.deployment.predictor import Predictor
    from mnv2_backbone.network.checkpoint import read_weights_only_everywhere
    from mnv2_backbone.training.options import load_config, stored_config

    read_weights_only_everywhere()
    if is_exported(args.weights):
        return FilePredictor(Predictor.from_file(args.weights), args.out_dir, args.score_thr, args.max_size)
    read = partial(load_config, args.config) if args.config else partial(stored_config, args.weights)
    cfg = read(args.cfg_options)
    predictor = Predictor.from_checkpoint(cfg, args.weights, args.device)
    return FilePredictor(predictor, args.out_dir, args.score_thr, args.max_size, cfg.get('visualizer'))


def run(predictor: FilePredictor, sources: list[Source], out: Path, coco: Path | None = None) -> int:
    """Goes through the files."""
    failed, results = 0, []
    with Progress() as progress:
        say = partial(progress.console.print, soft_wrap=True, markup=False, highlight=False)
        task = progress.add_task('files', total=len(sources))
        for source in sources:
            try:
                if source.is_video:
                    frames = progress.add_task(source.path.name, total=None)
                    for total in predictor.predict_video(source):
                        progress.update(frames, advance=1, total=total or None)
                else:
                    result = predictor.predict_image(source)
                    results.append(result)
                    for found in result.get('objects', []) if len(sources) == 1 else []:
                        say(f'{found["label"]:>16} {found["score"]:.2f}  {found["box"]}')
            except (UserError, OSError) as error:  # of this file; a full disk among them
                failed += 1
                say(f'skipped: {error}'.encode(errors='backslashreplace').decode())  # names may be of any encoding
            progress.advance(task)
    if coco:
        write_coco(coco, results, predictor.predictor.recipe.classes)
    print(f'{len(sources) - failed} of {len(sources)} files done, results in {out}/')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
