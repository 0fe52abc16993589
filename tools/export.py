"""Writes a detector or segmenter as a file for ONNX Runtime, OpenVINO, PyTorch, LiteRT or ncnn.

The file needs no config. It takes images (N, H, W, 3), BGR, uint8, of any number and size, and returns boxes and scores
in their pixels, or label maps; .tflite and ncnn files take one image of a fixed size, see docs/deploy.md. Classes,
sizes and thresholds are in the file. mnv2 infer and mnv2 test take it in place of weights.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from mnv2_backbone.deployment.backends import FORMATS, PRECISIONS
from mnv2_backbone.deployment.export import ExportOptions, export
from mnv2_backbone.errors import command, setting_up
from mnv2_backbone.training.command_line import check_files


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or the name of one in the package')
    parser.add_argument('weights', help='checkpoint or mnv2:// name')
    parser.add_argument('--format', default='onnx', help=f'{", ".join(FORMATS)} (default: onnx)')
    parser.add_argument('--precision', default='fp32', help=f'{", ".join(PRECISIONS)} (default: fp32)')
    parser.add_argument('--calib', type=Path, metavar='FOLDER', help='images to calibrate int8 with')
    parser.add_argument('--nms', action='store_true', help='include NMS in the file')
    parser.add_argument(
        '--input-size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="size that images are resized to (default: config's)",
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='default: ./CONFIG with the suffix of the format')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    size = tuple(args.input_size) if args.input_size else None
    options = ExportOptions(args.format, args.precision, args.calib, args.nms, size)
    check_files(args.config, args.weights)
    out = args.out or Path(Path(args.config.rpartition('::')[2]).stem + options.backend.suffix)
    with setting_up():
        from mnv2_backbone.network.checkpoint import read_weights_only_everywhere
        from mnv2_backbone.training.options import load_config

        read_weights_only_everywhere()
        export(load_config(args.config, args.cfg_options), args.weights, options, out)
    files = [out, *map(out.with_suffix, options.backend.companions)]
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f'{", ".join(map(str, files))}: {options.precision}, {size:.1f} MiB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
