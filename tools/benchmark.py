"""Measures how fast the networks are, beside other libraries' on the same machine in the same run.

Every row is a process of its own; they take turns of a few iterations, and only one computes at a time. Weights are
random, with norms and scores as of trained networks, see tools/speed/inputs.py. Meant for a machine that
does nothing else.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from speed.measure import Row, run_task
from speed.plot import SIZES, WIDTHS, draw_costs
from speed.table import as_table, write_json
from speed.variants import NAMES, TASKS, Variant, variants
from speed.workers import Failed, Missing, Worker

from mnv2_backbone.errors import UserError, command

CONFIGS = Path(__file__).parents[1] / 'configs'
DATA = Path('data/coco')
IMAGES = ('.png', '.svg', '.pdf')


@command
def main() -> int:
    """Runs the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', default=','.join(TASKS), help='some of %(default)s; all by default')
    parser.add_argument('--names', default=','.join(NAMES), help='rows: some of %(default)s; all by default')
    parser.add_argument('--threads', type=int, default=cores, help='that each computes with (default: %(default)s)')
    parser.add_argument(
        '--repeats', type=int, default=50, help='iterations of each row, a fifth in training (default: %(default)s)'
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='cuda: eager rows and training')
    parser.add_argument(
        '--data', type=Path, metavar='COCO_ROOT', help=f'to train on (default: {DATA}, or drawn images without it)'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the rows to this file')
    parser.add_argument(
        '--plot', type=Path, metavar='FILE.png', help='draw the time of the deployed backbone by size and width instead'
    )
    args = parser.parse_args()
    # Ended from outside, it ends its processes and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check(args)
    return plot(args) if args.plot else run(args)


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot be done."""
    for option, known in (('tasks', TASKS), ('names', NAMES)):
        for given in getattr(args, option).split(','):
            if given not in known:
                raise UserError(f'--{option} {given}: allowed are {", ".join(known)}')
    for task in args.tasks.split(','):
        if not wanted(task, args):
            raise UserError(f'--names {args.names}: the task {task} has no such row')
    for option in ('threads', 'repeats'):
        if getattr(args, option) < 1:
            raise UserError(f'--{option} {getattr(args, option)}: allowed are integers from 1')
    if args.data and not (args.data / 'annotations/instances_train2017.json').is_file():
        raise UserError(f'--data {args.data}: there is no annotations/instances_train2017.json in it')
    for option in ('json', 'plot'):
        path = getattr(args, option)
        if path and not path.parent.is_dir():
            raise UserError(f'--{option} {path}: the folder {path.parent} does not exist')
    if args.plot and args.plot.suffix not in IMAGES:
        raise UserError(f'--plot {args.plot}: allowed are files that end in {", ".join(IMAGES)}')
    if args.plot and find_spec('matplotlib') is None:
        raise UserError('--plot needs matplotlib: pip install "mnv2_backbone[logs]"')
    if args.device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            raise UserError('--device cuda: there is no GPU that torch can use; allowed is cpu')


def plot(args: argparse.Namespace) -> int:
    """Draws the backbone's cost."""
    what = dict(sizes=SIZES, widths=WIDTHS, repeats=args.repeats)
    with tempfile.TemporaryDirectory(prefix='mnv2_benchmark_') as folder, Console(stderr=True).status('measuring'):
        log = Path(folder, 'log.txt')
        with Worker('speed.plot:measure_costs', what, args.threads, log) as worker:
            costs = worker.ready()['costs']
    draw_costs(costs, SIZES, args.threads, args.plot)
    for width, times in costs.items():
        print(f'width {width:4g}:', ', '.join(f'{size} {ms:.1f} ms' for size, ms in zip(SIZES, times)))
    return 0


def wanted(task: str, args: argparse.Namespace) -> list[Variant]:
    """The rows asked for; those in bfloat16 only if it is multiplied: otherwise runtimes compute something else."""
    from mnv2_backbone.training.cpu import multiplies_bfloat16

    return [
        variant
        for variant in variants(task, args.device)
        if variant.name in args.names.split(',') and (variant.precision != 'bf16' or multiplies_bfloat16(args.device))
    ]


def run(args: argparse.Namespace) -> int:
    """Measures and prints; the exit status is 1 if a row failed."""
    from mnv2_backbone.training.cpu import multiplies_bfloat16

    rows: list[Row] = []
    notes: list[str] = []
    rates: list[float] = []
    if not multiplies_bfloat16(args.device):
        notes.append('no rows in bf16: this processor does not multiply bfloat16')
    with Console(stderr=True).status('') as status:
        for task in args.tasks.split(','):
            with tempfile.TemporaryDirectory(prefix='mnv2_benchmark_') as folder:
                try:
                    found, rate, lines = run_in(Path(folder), task, args, status.update)
                except (Missing, Failed) as error:  # in something that all rows need
                    notes.append(f'{task} failed: {error}')
                    continue
            rows, notes, rates = rows + found, notes + lines, [*rates, rate]
    product = ' to '.join(f'{2e-9 * rate:.0f}' for rate in sorted({min(rates), max(rates)})) if rates else 'no'
    title = f'threads: {args.threads}, {args.device}; float32 matrix product: {product} GFLOP/s'
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(as_table(rows, title))
    for note in notes:
        console.print(note, markup=False, highlight=False)
    if args.json:
        write_json(rows, args.json)
    return 1 if any(' failed: ' in note for note in notes) else 0


def run_in(
    folder: Path, task: str, args: argparse.Namespace, say: Callable[[str], None]
) -> tuple[list[Row], float, list[str]]:
    """Measures one task with a folder for its files; returns rows, the machine's rate and notes."""
    common: dict[str, Any] = dict(folder=folder, configs=CONFIGS, device=args.device)
    notes = []

    def ask(name: str, **options: Any) -> dict[str, Any]:
        with Worker(f'speed.{name}', {**common, **options}, args.threads, folder / 'log.txt') as one:
            return one.ready()

    say(f'{task}: making inputs')
    if task != 'train':
        ask('inputs:write_inputs', task=task)
        found, rate, lines = run_task(wanted(task, args), common, args.threads, args.repeats, say)
        return found, rate, lines
    data = args.data or DATA
    if not data.is_dir():
        data = folder / 'toy'
        ask('inputs:write_toy_coco', folder=data)
        notes.append(f'train: drawn images of about 560x560, as there is no {DATA}')
    common['data'] = data.absolute()
    say(f'{task}: pipelines')
    times = ask('ours:train_pipelines', samples=args.repeats)
    each = ', '.join(f'{name} {np.median(x):.1f} ms an image' for name, x in times.items())
    notes.append(f'train: pipelines alone, in one thread: {each}')
    found, rate, lines = run_task(wanted(task, args), common, args.threads, -(-args.repeats // 5), say)
    return found, rate, notes + lines


if __name__ == '__main__':
    sys.exit(main())
