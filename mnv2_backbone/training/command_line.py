"""The command lines of ``mnv2 train`` and ``mnv2 test``, for detection and segmentation configs alike.

A wrong option or a missing file is reported before PyTorch is imported.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from ..configs import find_config
from ..errors import UserError, command


@command
def train(argv: Sequence[str] | None = None) -> int:
    """Trains what a config describes; returns the exit status."""
    parser = _parser('Train a model.')
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 without a GPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='continue from this checkpoint; without a name from the newest one in the work folder, if any',
    )
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard logs as well')
    args = parser.parse_args(argv)
    check_files(args.config)
    if args.resume not in (None, 'auto') and not Path(args.resume).is_file():
        raise UserError(f'--resume: the checkpoint {args.resume} does not exist')
    from .run import run_training

    return run_training(args)


@command
def test(argv: Sequence[str] | None = None) -> int:
    """Evaluates a checkpoint or an exported file; returns the exit status."""
    parser = _parser('Test a model.')
    parser.add_argument('checkpoint', help='the weights to test, or a file that mnv2 export wrote')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl|DIR',
        help='save the predictions: all in a pickle file, or in the format of the data set in a folder',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save images of the predictions in this folder')
    parser.add_argument('--wait-time', type=float, default=2, metavar='S', help='how long to show each (default: 2)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    check_files(args.config, args.checkpoint)
    from .run import run_testing

    return run_testing(args)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file, or the name of one in the package')
    parser.add_argument('--work-dir', metavar='DIR', help='logs and checkpoints (default: ./work_dirs/CONFIG)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, e.g. train_dataloader.batch_size=8 key="[a,b]" data_root=FOLDER',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def check_files(config: str | None, *checkpoints: str | None) -> None:
    """Raises :class:`UserError` for a config or a checkpoint that does not exist; names with ``://`` are left alone."""
    if config is not None:
        try:
            find_config(config)
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
    for name in checkpoints:
        if name and '://' not in name and not Path(name).expanduser().is_file():
            raise UserError(f'checkpoint {name} does not exist')
