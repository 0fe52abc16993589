"""Writes a detector or segmenter as a file that ONNX Runtime, OpenVINO or PyTorch runs without its config.

The file takes pictures (N, H, W, 3), BGR, bytes, of any number and size, and gives boxes and scores in their pixels, or
label maps. Classes, sizes and thresholds are in it. tools/infer.py and tools/test.py take it in place of weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from mnv2_backbone.deployment.export import FORMATS, PRECISIONS, Wish, export
from mnv2_backbone.errors import UserError
from mnv2_backbone.runtime.checkpoint import read_weights_only_everywhere
from mnv2_backbone.runtime.options import load_config


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config file')
    parser.add_argument('weights', help='checkpoint or mnv2:// name')
    parser.add_argument('--format', default='onnx', help=f'{", ".join(FORMATS)} (default: onnx)')
    parser.add_argument('--precision', default='fp32', help=f'{", ".join(PRECISIONS)} (default: fp32)')
    parser.add_argument('--calib', type=Path, metavar='FOLDER', help='pictures to quantize with, for int8')
    parser.add_argument('--nms', action='store_true', help='thin out the boxes inside the file')
    parser.add_argument(
        '--input-size', nargs=2, type=int, metavar=('H', 'W'), help="what pictures are resized to (default: config's)"
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='default: ./CONFIG.onnx, .xml or .pt2')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    read_weights_only_everywhere()
    try:
        size = tuple(args.input_size) if args.input_size else None
        wish = Wish(args.format, args.precision, args.calib, args.nms, size)
        cfg = load_config(args.config, args.cfg_options)
        out = args.out or Path(Path(cfg.filename).stem).with_suffix(FORMATS[wish.format].suffix)
        export(cfg, args.weights, wish, out)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        if sys.flags.dev_mode:
            raise
        print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    print(f'{out}: {wish.precision}, {out.stat().st_size / 2**20:.1f} MiB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
