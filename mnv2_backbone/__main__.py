"""The command ``mnv2``, also ``python -m mnv2_backbone``: the scripts of tools/ as subcommands."""

import argparse
import platform
import re
import sys
from importlib import import_module
from importlib.metadata import distributions
from typing import Any

from .configs import HOME

#: The script of each subcommand, and what it does.
COMMANDS = {
    'infer': ('infer', 'detect objects in images and videos, or segment them'),
    'finetune': ('finetune', 'train on a folder of your annotated images, in one step'),
    'train': ('train', 'train what a config describes'),
    'test': ('test', 'evaluate weights or an exported file'),
    'export': ('export', 'write a file for ONNX Runtime, OpenVINO, PyTorch, LiteRT or ncnn'),
    'describe': ('describe', 'print the network layer by layer with its cost'),
    'convert': ('convert_weights', 'convert weights of other libraries'),
    'benchmark': ('benchmark', 'measure times beside other libraries'),
    'compare': ('compare_peers', "train other libraries' MobileNetV2 with the same recipe"),
    'curves': ('plot_curves', 'draw the curves of training runs'),
    'toy': ('make_toy_dataset', 'write a small data set of drawn shapes'),
}
#: What --version names.
_PACKAGES = re.compile('mnv2_backbone|torch|torchvision|numpy|(onedl-)?mm.*|onnxruntime|openvino')


def main() -> int:
    """Runs a subcommand; returns the exit status."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        'mnv2',
        description='MobileNetV2 for detection and segmentation.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='commands (mnv2 COMMAND --help lists their options):\n'
        + '\n'.join(f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument('--version', action=_PrintVersions, nargs=0, help='print the versions that matter')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...')
    args = parser.parse_args()
    sys.path.insert(0, str(HOME / 'tools'))
    sys.argv = [f'mnv2 {args.command}', *args.arguments]
    status: int = import_module(COMMANDS[args.command][0]).main()
    return status


class _PrintVersions(argparse.Action):
    """Reads them when it is asked for them: all installed packages are looked at."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(_versions())
        parser.exit()


def _versions() -> str:
    found = [f'{found.name} {found.version}' for found in distributions() if _PACKAGES.fullmatch(found.name)]
    first = sorted(found, key=lambda text: (not text.startswith('mnv2_backbone'), text))
    return ', '.join([*first, f'Python {platform.python_version()}'])


if __name__ == '__main__':
    sys.exit(main())
