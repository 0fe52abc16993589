"""Converts MobileNetV2 weights from elsewhere into a checkpoint of this package."""

from __future__ import annotations

import argparse
import sys

from mnv2_backbone.errors import UserError
from mnv2_backbone.weights.convert import FORMATS, Converted, read, save
from mnv2_backbone.weights.layout import PARTS
from mnv2_backbone.weights.outward import LAYOUTS, rename_for


def laid_out(converted: Converted, library: str) -> Converted:
    """The backbone in a library's layout, its names without a prefix, as ``init_cfg`` of its configs reads it."""
    backbone = rename_for(library, converted.state_dict)
    names = {key.removeprefix('backbone.'): value for key, value in backbone.items()}
    return Converted(names, converted.meta)


def main() -> int:
    """Runs the command line; returns the exit status (2: the user has to change something)."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Formats, told by content: ' + ', '.join(f.name for f in FORMATS)
    )
    parser.add_argument('src', help='the weights: a file, or a folder where the format has several files')
    parser.add_argument('dst', help='checkpoint to write (.pth)')
    parser.add_argument(
        '--only', nargs='+', choices=PARTS, default=(), help='keep these parts and leave out all others'
    )
    parser.add_argument(
        '--classes',
        choices=('all', 'coco'),
        default='all',
        help="of a detector: all as they are, or the 80 used of COCO's 90 ids",
    )
    parser.add_argument(
        '--layout',
        choices=('ours', *LAYOUTS),
        default='ours',
        help="ours, or the backbone alone as MMDetection's or MMSegmentation's (MMPretrain's) own MobileNetV2 names it",
    )
    args = parser.parse_args()
    try:
        converted = read(args.src, only=args.only, classes=args.classes)
        save(converted if args.layout == 'ours' else laid_out(converted, args.layout), args.dst)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    state, meta = converted.state_dict, converted.meta
    parts = [part for part in PARTS if any(key.startswith(f'{part}.') for key in state)]
    print(f'{meta["format"]}: {len(state)} tensors of {", ".join(parts)}')
    options = meta.get('backbone')
    if options is not None:
        listed = ', '.join(f'{name}={value!r}' for name, value in options.items())
        print(f'for MobileNetV2({listed})')
    elif 'backbone' in parts:
        print('channels of no width of the standard table: set the spec to match')
    if 'num_classes' in meta:
        print(f'detector of {meta["num_classes"]} classes and the background')
    if meta['folded']:
        print('norms were folded: train with norm_eval=True, or measure their statistics first')
    print(f'written to {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
