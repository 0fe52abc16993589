"""The command lines of ``tools/train.py`` and ``tools/test.py``, for detection and segmentation configs alike."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..errors import UserError
from .checkpoint import find_resume_point, read_checkpoint, read_weights_only_everywhere
from .options import load_config
from .preflight import check_data
from .testing import apply_test_options, dump

#: What mmengine and the packages on it raise at a config that cannot be built.
_SETUP_ERRORS = (
    TypeError,
    KeyError,
    ValueError,
    OSError,
    AssertionError,
    ImportError,
    RuntimeError,
    UnpicklingError,
)


class _StartedHook(Hook):
    """Knows whether the set-up is over: from then on an error is not the user's."""

    started = False

    def before_train(self, runner: Runner) -> None:
        self.started = True

    def before_test(self, runner: Runner) -> None:
        self.started = True


def train(argv: Sequence[str] | None = None) -> int:
    """Trains what a config describes; returns the exit status (2: the user has to change something)."""
    parser = _parser('Train a model.')
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 where there is no GPU)'
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='go on from this checkpoint; without a name from the newest one in the work folder, if any',
    )
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard logs as well')
    return _run(parser.parse_args(argv), _prepare_training, Runner.train)


def test(argv: Sequence[str] | None = None) -> int:
    """Evaluates a checkpoint or an exported file; returns the exit status (2: the user has to change something)."""
    parser = _parser('Test a model.')
    parser.add_argument('checkpoint', help='the weights to test, or a file that tools/export.py wrote')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl|DIR',
        help='save the predictions: all in a pickle file, or in the format of the data set in a folder',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='save pictures of the predictions in this folder'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, metavar='S', help='how long to show each (default: 2)'
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return _run(parser.parse_args(argv), _prepare_testing, Runner.test)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='the config file')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='logs and checkpoints (default: ./work_dirs/CONFIG)'
    )
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


def _run(
    args: argparse.Namespace,
    prepare: Callable[[argparse.Namespace], Config],
    go: Callable[[Runner], object],
) -> int:
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    read_weights_only_everywhere()
    _hide_broken_torchvision()
    hook = _StartedHook()
    prepared = False
    try:
        cfg = prepare(args)
        prepared = True
        if cfg.launcher != 'none' and not torch.cuda.is_available():
            _distribute_on_cpu(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.register_hook(hook, priority='LOWEST')
        if getattr(args, 'out', None) and args.out.endswith(('.pkl', '.pickle')):
            runner.test_evaluator.metrics.append(dump(cfg, args.out))
        go(runner)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except UserError as error:
        # Every rank meets the same mistake in the config: one of them says so.
        if prepared or _rank() == 0:
            print(f'error: {_message(error)}', file=sys.stderr)
        return 2
    except _SETUP_ERRORS as error:
        if hook.started or sys.flags.dev_mode:
            raise
        print(
            f'error: {_message(error)} (python -X dev {sys.argv[0]} shows where)', file=sys.stderr
        )
        return 2
    return 0


def _message(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if 'Original Traceback' in text:  # from a data worker: what it raised stands in the last line
        return lines[-1].partition(': ')[2]
    return ' '.join(lines) or type(error).__name__


def _rank() -> int:
    """The rank of this process, known before anything is set up."""
    return next(
        (
            int(os.environ[name])
            for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
            if name in os.environ
        ),
        0,
    )


def _hide_broken_torchvision() -> None:
    """Lets a torchvision that does not fit the installed torch count as not installed.

    mmengine imports it to log its version and expects no other failure than its absence.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except (RuntimeError, OSError) as error:
        print(f'warning: torchvision is left out, it cannot be imported: {error}', file=sys.stderr)
        sys.modules['torchvision'] = None  # type: ignore[assignment]


def _load(args: argparse.Namespace) -> Config:
    """Reads the config and merges what both command lines have in common."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
    )
    for part in ('val_dataloader', 'test_dataloader', 'tta_pipeline'):
        _name_damaged_pictures(cfg.get(part))
    return cfg


def _name_damaged_pictures(node: Any) -> None:
    """Loads pictures by :class:`LoadImage`, whose errors name the file.

    The configs say ``LoadImageFromFile``, which the inferencers of MMDetection and MMSegmentation look for.
    """
    if isinstance(node, dict):
        if node.get('type') == 'LoadImageFromFile' and 'ignore_empty' not in node:
            node['type'] = 'mnv2_backbone.LoadImage'
        for child in node.values():
            _name_damaged_pictures(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _name_damaged_pictures(child)


def _distribute_on_cpu(cfg: Config) -> None:
    """Joins the other processes without a GPU, for which mmengine has no way: it always sets one."""
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs GPUs; without one use tools/dist_train.sh or '
            'tools/dist_test.sh'
        )
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        if name not in os.environ:
            raise UserError(
                f'--launcher pytorch: the variable {name} is not set; start with tools/dist_train.sh '
                'or tools/dist_test.sh'
            )
    wrapper = cfg.get('model_wrapper_cfg') or ConfigDict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.setdefault('device_ids', None)  # mmengine would name GPUs
    cfg.model_wrapper_cfg = wrapper
    torch.distributed.init_process_group('gloo')


def _check(cfg: Config, splits: Sequence[str], *checkpoints: str | None) -> None:
    """Looks at data and checkpoints once for all ranks of a node and others."""
    if _rank() != 0:
        return
    check_data(cfg, splits)
    for name in checkpoints:
        if name and '://' not in name:
            read_checkpoint(name)


def _prepare_training(args: argparse.Namespace) -> Config:
    cfg = _load(args)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size to scale from'
            )
        cfg.auto_scale_lr.enable = True
    if args.tensorboard:
        _use_tensorboard(cfg)
    if args.resume == 'auto':
        point = find_resume_point(cfg.work_dir)
        if point is None:
            print(
                f'nothing to resume in {cfg.work_dir}: training starts from the beginning',
                file=sys.stderr,
            )
        cfg.resume, cfg.load_from = point is not None, point or cfg.get('load_from')
    elif args.resume is not None:
        if not Path(args.resume).is_file():
            raise UserError(f'--resume: the checkpoint {args.resume} does not exist')
        cfg.resume, cfg.load_from = True, args.resume
    _check(cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',), cfg.get('load_from'))
    return cfg


def _use_amp(cfg: Config) -> None:
    known = ('OptimWrapper', 'AmpOptimWrapper', 'mnv2_backbone.BFloat16OptimWrapper')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in known:
        raise UserError(
            f'--amp works with optim_wrapper.type OptimWrapper, but the config has {kind}'
        )
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        cfg.optim_wrapper.pop('enabled', None)
    else:
        cfg.optim_wrapper.update(type='mnv2_backbone.BFloat16OptimWrapper', enabled=True)
        for option in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(option, None)


def _use_tensorboard(cfg: Config) -> None:
    if importlib.util.find_spec('tensorboard') is None:
        raise UserError('--tensorboard: TensorBoard is not installed; pip install tensorboard')
    visualizer = cfg.setdefault('visualizer', ConfigDict(type='Visualizer'))
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if not any(backend['type'] == 'TensorboardVisBackend' for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    visualizer.vis_backends = backends


def _prepare_testing(args: argparse.Namespace) -> Config:
    cfg = _load(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    apply_test_options(cfg, args)
    _check(cfg, ('test',), cfg.load_from)
    return cfg
