"""Measures how fast the networks are, beside other libraries' on the same machine in the same run.

Every row is a process of its own; they take turns of a few iterations, and only one computes at a time. Weights are
random, with norms and scores as of trained networks, see mnv2_backbone/benchmark/inputs.py. Meant for a machine that
does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from mnv2_backbone.benchmark.measure import Row, run_task
from mnv2_backbone.benchmark.table import as_table, write_json
from mnv2_backbone.benchmark.variants import TASKS, variants
from mnv2_backbone.benchmark.workers import Worker
from mnv2_backbone.errors import UserError

CONFIGS = Path(__file__).parents[1] / 'configs'


def main() -> int:
    """Runs the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', default=','.join(TASKS), help='some of %(default)s; all by default')
    parser.add_argument('--threads', type=int, default=cores, help='that each computes with (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=50, help='iterations of each row (default: %(default)s)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='cuda: eager rows and training')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the rows here too')
    args = parser.parse_args()
    try:
        return run(args)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Measures and prints; the exit status is 1 where a row failed."""
    tasks = args.tasks.split(',')
    for task in tasks:
        if task not in TASKS:
            raise UserError(f'--tasks {task}: allowed are {", ".join(TASKS)}')
    for option in ('threads', 'repeats'):
        if getattr(args, option) < 1:
            raise UserError(f'--{option} {getattr(args, option)}: allowed are whole numbers from 1')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: there is no GPU that torch can use; allowed is cpu')
    if args.json and not args.json.parent.is_dir():
        raise UserError(f'--json {args.json}: the folder {args.json.parent} does not exist')
    rows: list[Row] = []
    notes: list[str] = []
    rates: list[float] = []
    errors = Console(stderr=True)
    with errors.status('') as status:
        for task in tasks:
            with tempfile.TemporaryDirectory(prefix='mnv2_benchmark_') as folder:
                common = dict(folder=Path(folder), configs=CONFIGS, device=args.device)
                status.update(f'{task}: making inputs')
                log = Path(folder, 'log.txt')
                inputs = 'mnv2_backbone.benchmark.inputs:write_inputs'
                with Worker(inputs, dict(common, task=task), args.threads, log) as worker:
                    worker.ready()
                found, rate, lines = run_task(
                    variants(task, args.device), common, args.threads, args.repeats, status.update
                )
            rows, notes, rates = rows + found, notes + lines, [*rates, rate]
    console = Console(width=None if sys.stdout.isatty() else 140)
    title = (
        f'threads: {args.threads}, {args.device}; matrix product '
        f'{2e-9 * min(rates):.0f} to {2e-9 * max(rates):.0f} GFLOP/s, float32'
    )
    console.print(as_table(rows, title))
    for note in notes:
        console.print(note, markup=False, highlight=False)
    if args.json:
        write_json(rows, args.json)
    return 1 if any(' failed: ' in note for note in notes) else 0


if __name__ == '__main__':
    sys.exit(main())
