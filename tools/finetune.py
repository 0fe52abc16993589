"""Trains a detector or segmenter on a folder of annotated images, and writes it as a file to use.

DATA is a folder, a zip file, a data.yaml or a COCO file. Boxes are read from COCO, Pascal VOC, YOLO, CVAT and labelme
files, masks from PNG files or from the outlines in COCO, labelme, CVAT and YOLO files. Task, input
size and schedule are chosen from the data and printed; every choice has an option.
"""

import argparse
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mnv2_backbone.errors import UserError, command, listing, one_line, setting_up
from mnv2_backbone.training.command_line import check_files

if TYPE_CHECKING:
    from tuning.choices import Choices
    from tuning.data import Data
    from tuning.scores import Scores


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the options; those that cannot be right are refused before anything is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA', help='the annotated images')
    parser.add_argument('--task', choices=['detect', 'segment'], help='default: by the annotations')
    text = 'the detector: ssdlite starts from COCO weights, fpnlite from ImageNet weights (ssdlite)'
    parser.add_argument('--model', choices=['ssdlite', 'fpnlite'], default='ssdlite', help=text)
    formats = ['coco', 'voc', 'yolo', 'cvat', 'labelme', 'masks']
    parser.add_argument('--format', choices=formats, help='which annotations to read, if there are several')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='names of the class numbers, or classes to learn')
    parser.add_argument(
        '--val',
        type=float,
        default=0.2,
        metavar='SHARE',
        help='part set aside for validation, if there is no split (0.2)',
    )
    parser.add_argument('--size', type=int, nargs=2, metavar=('W', 'H'), help='input size in pixels')
    text = 'no colour augmentation: for classes told apart by colour, as stained cells'
    parser.add_argument('--keep-colours', action='store_true', help=text)
    parser.add_argument('--weights', metavar='CKPT', help='start from these weights, also of other classes')
    parser.add_argument('--epochs', type=int, metavar='N', help='length of the training')
    parser.add_argument('--minutes', type=float, metavar='M', help='limit of the training with its validations')
    parser.add_argument('--lr', type=float, help='highest learning rate of AdamW (detect 7e-4, segment 1e-3)')
    parser.add_argument('--batch-size', type=int, metavar='N', help='images in a step of training (8)')
    parser.add_argument('--patience', type=int, metavar='N', help='epochs without a better score before it stops')
    parser.add_argument('--seed', type=int, default=0, help='of the split and of the training (0)')
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help='default: a new folder in work_dirs/')
    parser.add_argument(
        '--export', default='onnx', choices=['onnx', 'openvino', 'none'], help='format of the file to use (onnx)'
    )
    parser.add_argument('--dry-run', action='store_true', help='write the config and stop')
    args = parser.parse_args(argv)
    if not args.data.exists():
        raise UserError(f'{args.data} does not exist')
    for name, low in (('epochs', 1), ('batch_size', 2), ('patience', 1), ('minutes', 0.5), ('seed', 0)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f'--{name.replace("_", "-")} {value}: allowed are numbers from {low}')
    if args.lr is not None and not 0 < args.lr < 1:
        raise UserError(f'--lr {args.lr}: allowed are numbers between 0 and 1')
    if args.epochs and args.minutes:
        raise UserError('--epochs and --minutes: name one of them')
    if not 0 < args.val < 0.9:
        raise UserError(f'--val {args.val}: allowed are numbers between 0 and 0.9')
    if args.size and min(args.size) < 64:
        raise UserError(f'--size {args.size[0]} {args.size[1]}: allowed are numbers from 64')
    check_files(None, args.weights)
    return args


@command
def main() -> int:
    """Runs the command line."""
    args = parse()
    work_dir = new_folder(args)
    existed, place = work_dir.exists(), work_dir.resolve()
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--work-dir {work_dir} cannot be created: {one_line(error)}') from error
    try:
        finetune(args, work_dir)
    except UserError:
        if not (place / 'training').exists():  # nothing was begun in this folder, which was new or empty
            shutil.rmtree(place, ignore_errors=True)
            if existed:
                place.mkdir(exist_ok=True)
        raise
    return 0


def new_folder(args: argparse.Namespace) -> Path:
    """The folder of the run, which is new or empty."""
    if args.work_dir:
        if args.work_dir.exists() and (not args.work_dir.is_dir() or any(args.work_dir.iterdir())):
            raise UserError(f'--work-dir {args.work_dir}: it is not empty; name a new folder')
        return Path(args.work_dir)
    name = args.data.resolve().stem or 'data'
    places = (Path('work_dirs', f'{name}_{number}' if number > 1 else name) for number in range(1, 10**6))
    return next(place for place in places if not place.exists())


def finetune(args: argparse.Namespace, work_dir: Path) -> 'Scores | None':
    """Reads, chooses, writes the config, trains and reports; returns the scores, or None after a dry run."""
    console = Console(soft_wrap=True, highlight=False, file=sys.stdout)
    with setting_up():
        from tuning.choices import choose, print_choices
        from tuning.config import write_config
        from tuning.data import describe, read_data, unpacked
        from tuning.lists import write_lists
        from tuning.progress import epochs_within, seconds_per_epoch

        path = unpacked(args.data, work_dir)
        data = read_data(path, args.format, args.task, args.classes, args.val, args.seed)
        describe(data, console)
        size = tuple(args.size) if args.size else None
        choices = choose(
            data, args.task, args.model, size, args.weights, args.batch_size, args.epochs, args.keep_colours
        )
        choices.lr = args.lr or choices.lr
        write_lists(data, work_dir, choices.task)
        title = f'{listing(data.classes, 4)} in {len(data.of("train"))} images of {args.data.name}.'
        config = write_config(data, choices, title, work_dir, args.patience, args.seed)
        if args.minutes:
            with quiet():
                training, validation = seconds_per_epoch(str(config))
            choices.epochs = epochs_within(args.minutes * 60 * 0.9, training, validation)
            text = f'one takes {training:.0f} s here and a validation {validation:.0f} s, of {args.minutes:g} minutes'
            choices.reasons['epochs'] = text
            config = write_config(data, choices, title, work_dir, args.patience, args.seed)
        print_choices(choices, config, console)
    if args.dry_run:
        command_line = shlex.join(['mnv2', 'train', str(config), '--work-dir', str(work_dir / 'training')])
        console.print(f'\ntrain with: {command_line}')
        return None
    return train_and_report(data, choices, work_dir, args, console)


def train_and_report(
    data: 'Data', choices: 'Choices', work_dir: Path, args: argparse.Namespace, console: Console
) -> 'Scores':
    """Trains the config in the work folder, and reports on the best checkpoint; returns its scores."""
    from tuning.config import BASES
    from tuning.progress import ProgressHook, best_checkpoint
    from tuning.report import report

    from mnv2_backbone.training.run import run_training

    training = work_dir / 'training'
    options = dict(config=str(work_dir / 'config.py'), work_dir=str(training), cfg_options=None, launcher='none')
    switches = dict(local_rank=0, amp=False, auto_scale_lr=False, resume=None, tensorboard=False)
    with quiet():
        hook = ProgressHook(BASES[choices.model][1], console, args.minutes)
        with hook.progress:
            run_training(argparse.Namespace(**options, **switches), [hook])
        with setting_up():
            return report(data, choices.task, work_dir, best_checkpoint(training), args.export, console)


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves what libraries print and warn to the log file."""
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


if __name__ == '__main__':
    sys.exit(main())
