"""Converts MobileNetV2 weights from elsewhere into a checkpoint of this package."""

import argparse
import sys

from mnv2_backbone.errors import command, setting_up
from mnv2_backbone.weights.formats import FORMATS, LAYOUTS, PARTS, recognize


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Formats, recognized by content: ' + ', '.join(f.name for f in FORMATS)
    )
    parser.add_argument('src', help='the weights: a file, or a folder if the format has several files')
    parser.add_argument('dst', help='checkpoint to write (.pth)')
    parser.add_argument(
        '--only', nargs='+', choices=PARTS, default=(), help='keep these parts and leave out all others'
    )
    parser.add_argument(
        '--classes',
        choices=('all', 'coco'),
        default='all',
        help="of a detector: all as they are, or the 80 in use of COCO's 90 ids",
    )
    parser.add_argument(
        '--layout',
        choices=('ours', *LAYOUTS),
        default='ours',
        help="ours, or the backbone alone as MMDetection's or MMSegmentation's (MMPretrain's) own MobileNetV2 names it",
    )
    args = parser.parse_args()
    recognize(args.src)
    from outward import rename_for

    from mnv2_backbone.weights.convert import Converted, read, save

    converted = read(args.src, only=args.only, classes=args.classes)
    if args.layout == 'ours':
        save(converted, args.dst)
    else:  # names without a prefix, as init_cfg of that library's configs reads them
        with setting_up():
            names = rename_for(args.layout, converted.state_dict, prefix='')
        save(Converted(names, converted.meta), args.dst)
    state, meta = converted.state_dict, converted.meta
    parts = [part for part in PARTS if any(key.startswith(f'{part}.') for key in state)]
    print(f'{meta["format"]}: {len(state)} tensors of {", ".join(parts)}')
    options = meta.get('backbone')
    if options is not None:
        print(f'for MobileNetV2({", ".join(f"{name}={value!r}" for name, value in options.items())})')
    elif 'backbone' in meta:
        print('the channels fit no width of the standard layer table: build MobileNetV2 with your own spec')
    if args.layout != 'ours' and (options or {}).get('padding') != 'explicit':
        print(
            'WARNING: that network pads symmetrically and its norms have epsilon 1e-5; with weights for other padding '
            'or another epsilon it computes other features'
        )
    if 'num_classes' in meta:
        print(f'detector of {meta["num_classes"]} classes and the background')
    if meta['folded']:
        print('norms were folded: train with norm_eval=True, or measure their statistics first')
    print(f'written to {args.dst}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
