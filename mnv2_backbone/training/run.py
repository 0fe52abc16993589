"""Training and testing with mmengine's runner."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.queues import Queue
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.registry import METRICS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import UserError, one_line, setting_up
from ..network.checkpoint import read_checkpoint, read_weights_only_everywhere
from .cpu import keep_freed_memory
from .preflight import check_data
from .prepare import is_pickle, prepare_testing, prepare_training

#: Errors of training that have a remedy, by a part of their text.
_REMEDIES = {
    'more than 1 value per channel': 'batch norm cannot train on a batch of 1 image: set train_dataloader.batch_size '
    'to 2 or more, and drop_last=True',
    'DataLoader worker': 'a data worker ended: there may be too little memory, or too little space in /dev/shm (df -h '
    '/dev/shm); free some, or set num_workers=0 and persistent_workers=False of the data loaders',
}
Prepare = Callable[[argparse.Namespace], tuple[Config, list[str]]]


class _StartedHook(Hook):
    """Knows whether the set-up is over: from then on an error is not the user's."""

    started = False

    def before_train(self, runner: Runner) -> None:
        self.started = True

    def before_test(self, runner: Runner) -> None:
        self.started = True


class DueValidationHook(Hook):
    """Does the validation after the epoch that a run is resumed from; a run may have been ended in the middle of it."""

    def before_train(self, runner: Runner) -> None:
        """Runs the validation if one is due after the epochs that are done."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or runner.val_loop is None:
            return
        is_due = loop.epoch % loop.val_interval == 0 or loop.epoch == loop.max_epochs
        if is_due and loop.epoch >= max(loop.val_begin, 1):
            runner.val_loop.run()


def run_training(args: argparse.Namespace, hooks: Sequence[Hook] = ()) -> int:
    """Trains; returns the exit status. Options as :func:`mnv2_backbone.training.command_line.train` parses them."""
    keep_freed_memory()
    return _run(args, prepare_training, Runner.train, hooks)


def run_testing(args: argparse.Namespace) -> int:
    """Tests; returns the exit status. Options as :func:`mnv2_backbone.training.command_line.test` parses them."""
    return _run(args, prepare_testing, Runner.test)


def _run(args: argparse.Namespace, prepare: Prepare, go: Callable[[Runner], object], hooks: Sequence[Hook] = ()) -> int:
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]  # typeshed lacks it
    read_weights_only_everywhere()
    hook = _StartedHook()
    try:
        with setting_up():
            cfg, changes = prepare(args)
            found = _check(cfg, args)
    except UserError:
        if _rank() == 0:
            raise
        return 2  # every rank meets the same mistake: one of them reports it
    with setting_up(lambda: hook.started):
        if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
            torch.distributed.init_process_group('gloo')
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        for line in [*found, *(f'changed in the config: {change}' for change in changes)]:
            runner.logger.info(line)
        for own in (hook, *hooks, DueValidationHook()):
            runner.register_hook(own, priority='LOWEST')
        if is_pickle(getattr(args, 'out', None)):
            runner.test_evaluator.metrics.append(_dump(cfg, args.out))
        try:
            go(runner)
        except (ValueError, RuntimeError) as error:
            for part, remedy in _REMEDIES.items():
                if part in str(error):
                    raise UserError(f'{remedy} ({one_line(error)})') from error
            raise
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _end_worker(error: Exception, _: object) -> None:
    """Ends a data worker that cannot hand over a batch; Python would drop it, and training wait for it forever."""
    if parent_process() is not None:
        print(f'a data worker cannot hand over a batch: {error}', file=sys.stderr, flush=True)
        os._exit(1)
    raise error


def _check(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Looks at data and checkpoints, once for all processes of a node; returns what is to be said about the data."""
    if _rank() != 0:
        return []
    testing = hasattr(args, 'checkpoint')
    splits: Sequence[str] = ('test',) if testing else ('train', 'val') if cfg.get('val_cfg') else ('train',)
    found = check_data(cfg, splits)
    name = cfg.get('load_from')
    if name and '://' not in name:
        checkpoint = read_checkpoint(name, mmap=True)
        if cfg.get('resume') and not {'optimizer', 'meta'} <= checkpoint.keys():
            raise UserError(f'{name} holds weights only, nothing to resume; start from it with --cfg-options load_from')
    return found


def _rank() -> int:
    """The rank of this process, known before anything is set up."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def _dump(cfg: Config, path: str) -> DumpResults:
    """Collects all predictions and pickles them to a file."""
    kind: Any = 'mmdet.DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    return METRICS.build(dict(type=kind, out_file_path=path))
