"""What the options of the command lines change in a config: one list of steps, each a line in the log."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from ..configs import leaves, type_name
from ..deployment.backends import is_exported, open_exported
from ..deployment.recipe import Manifest, dataset_meta
from ..errors import UserError
from ..network.checkpoint import find_resume_point, refuse_earlier_run
from .options import load_config, stored_config

#: Changes a config; returns what was changed, or None.
Step = Callable[[Config, argparse.Namespace], str | None]


def prepare_training(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """Reads the config of a training and changes it as the options say; returns it, and a line for each change."""
    return _prepare(args, (_place, _name_damaged_images, _use_amp, _scale_lr, _use_tensorboard, _resume, _distribute))


def prepare_testing(args: argparse.Namespace) -> tuple[Config, list[str]]:
    """Reads the config of a test and changes it as the options say; returns it, and a line for each change."""
    for path in (args.show_dir, args.out and os.path.dirname(args.out)):
        if path:  # before the work, not after it
            os.makedirs(path, exist_ok=True)
    place = (_place, _name_damaged_images, _without_training, _use_weights)
    return _prepare(args, (*place, _draw, _use_tta, _save_predictions, _distribute))


def _prepare(args: argparse.Namespace, steps: Sequence[Step]) -> tuple[Config, list[str]]:
    cfg = load_config(args.config, args.cfg_options)
    changes = [f'--cfg-options {name}={value}' for name, value in (args.cfg_options or {}).items()]
    return cfg, changes + [change for step in steps if (change := step(cfg, args))]


def is_pickle(out: str | None) -> bool:
    """Whether ``--out`` names a pickle file, not a folder."""
    return bool(out) and str(out).endswith(('.pkl', '.pickle'))


def _place(cfg: Config, args: argparse.Namespace) -> str:
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
    return f'work_dir={cfg.work_dir}, launcher={cfg.launcher}'


def _name_damaged_images(cfg: Config, args: argparse.Namespace) -> str | None:
    """The configs say ``LoadImageFromFile``, which the inferencers of MMDetection and MMSegmentation look for."""
    parts = [cfg.get(part) for part in ('val_dataloader', 'test_dataloader', 'tta_pipeline')]
    loaders = [step for step in _dicts(parts) if step.get('type') == 'LoadImageFromFile' and 'ignore_empty' not in step]
    for step in loaders:
        step['type'] = 'mnv2_backbone.LoadImage'
    return 'LoadImageFromFile is mnv2_backbone.LoadImage, whose errors name the file' if loaders else None


def _without_training(cfg: Config, args: argparse.Namespace) -> str | None:
    """Leaves out the hook that would read the training images in a test."""
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if 'EarlyStoppingHook' not in str(hook)]
    return 'no EarlyStoppingHook in a test' if len(cfg.custom_hooks) < len(hooks) else None


def _dicts(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(child)


def _use_amp(cfg: Config, args: argparse.Namespace) -> str | None:
    if not args.amp:
        return None
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'mnv2_backbone.BFloat16OptimWrapper'):
        raise UserError(f'--amp works with optim_wrapper.type OptimWrapper, but the config has {kind}')
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        wrapper.pop('enabled', None)
    else:
        wrapper.update(type='mnv2_backbone.BFloat16OptimWrapper', enabled=True)
        for option in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(option, None)
    return f'optim_wrapper.type={wrapper.type} (--amp)'


def _scale_lr(cfg: Config, args: argparse.Namespace) -> str | None:
    if not args.auto_scale_lr:
        return None
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size to scale from')
    cfg.auto_scale_lr.enable = True
    return f'the learning rate is scaled from batches of {cfg.auto_scale_lr.base_batch_size} (--auto-scale-lr)'


def _use_tensorboard(cfg: Config, args: argparse.Namespace) -> str | None:
    if not args.tensorboard:
        return None
    if find_spec('tensorboard') is None:
        raise UserError('--tensorboard: TensorBoard is not installed; pip install tensorboard')
    visualizer = cfg.setdefault('visualizer', ConfigDict(type='Visualizer'))
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if not any(backend['type'] == 'TensorboardVisBackend' for backend in backends):
        backends.append(dict(type='TensorboardVisBackend'))
    visualizer.vis_backends = backends
    return 'visualizer.vis_backends has TensorBoard (--tensorboard)'


def _resume(cfg: Config, args: argparse.Namespace) -> str | None:
    if args.resume is None:
        if not cfg.get('resume'):
            refuse_earlier_run(cfg.work_dir)
        return None
    point = find_resume_point(cfg.work_dir) if args.resume == 'auto' else args.resume
    if point is None:
        print(f'nothing to resume in {cfg.work_dir}: training starts from the beginning', file=sys.stderr)
    else:
        _check_schedule(cfg, point, args.cfg_options or ())
    cfg.resume, cfg.load_from = point is not None, point or cfg.get('load_from')
    return f'resume={cfg.resume}, load_from={cfg.load_from} (--resume)'


def _check_schedule(cfg: Config, point: str, options: Iterable[str]) -> None:
    """Refuses options for the optimizer and its schedule that are others than those that the checkpoint brings back."""
    places = ('optim_wrapper.optimizer', 'param_scheduler')
    given = [name for name in options if name.startswith(places)]
    if not given:
        return
    try:
        before = stored_config(point)
    except UserError:  # a file of another origin; what is wrong with it is found later
        return
    theirs, ours = ([x.get('param_scheduler'), x.optim_wrapper.get('optimizer')] for x in (before, cfg))
    if theirs != ours:
        raise UserError(
            f'--resume with --cfg-options {given[0]}: a resumed run keeps the optimizer and the schedule of {point}; '
            f'to change them, start from its weights: load_from={point} and another --work-dir'
        )


def _distribute(cfg: Config, args: argparse.Namespace) -> str | None:
    """Without a GPU the processes are wrapped here; mmengine can only do it with GPUs."""
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return None
    tools = 'tools/dist_train.sh or tools/dist_test.sh'
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs; without one use {tools}')
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        if name not in os.environ:
            raise UserError(f'--launcher pytorch: the variable {name} is not set; start with {tools}')
    wrapper = cfg.get('model_wrapper_cfg') or ConfigDict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.setdefault('device_ids', None)  # mmengine would name GPUs
    cfg.model_wrapper_cfg = wrapper
    return f'model_wrapper_cfg={wrapper.type} without GPUs'


def _use_weights(cfg: Config, args: argparse.Namespace) -> str:
    cfg.load_from, cfg.resume = args.checkpoint, False
    if not is_exported(args.checkpoint):
        return f'load_from={args.checkpoint}, resume=False'
    for option, given in (('--tta', args.tta), ('--launcher', args.launcher != 'none')):
        if given:
            raise UserError(f'{option} cannot be used with an exported file ({args.checkpoint})')
    recipe = Manifest.from_json(open_exported(Path(args.checkpoint))[1]).recipe
    given = [name for name in args.cfg_options or () if name.startswith('model.test_cfg')]
    if given and recipe.task == 'detect' and json.loads(json.dumps(cfg.model.test_cfg)) != recipe.test_cfg:
        raise UserError(
            f'--cfg-options {given[0]}: {args.checkpoint} has a test_cfg of its own; export it with this one'
        )
    if {'detect': 'mmdet', 'segment': 'mmseg'}[recipe.task] != cfg.get('default_scope'):
        raise UserError(f'{args.checkpoint} was exported for the task {recipe.task!r}, {args.config} has another')
    classes = dataset_meta(cfg)['classes']
    if tuple(classes) != recipe.classes:
        raise UserError(
            f'{args.checkpoint} has {len(recipe.classes)} classes ({", ".join(recipe.classes[:3])} ...), '
            f'the test data set of {args.config} has others ({", ".join(classes[:3])} ...)'
        )
    for _, dataset in leaves('', cfg.test_dataloader.dataset):  # the file resizes
        dataset.pipeline = [step for step in dataset.pipeline if 'Resize' not in type_name(step)]
    cfg.model = ConfigDict(type='mnv2_backbone.ExportedModel', path=args.checkpoint)
    cfg.load_from = None
    return f'model is the exported file {args.checkpoint}, which resizes the images itself'


def _draw(cfg: Config, args: argparse.Namespace) -> str | None:
    if not (args.show or args.show_dir):
        return None
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError('--show and --show-dir need default_hooks.visualization in the config')
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir and hook.type.endswith('DetVisualizationHook'):
        hook.test_out_dir = os.path.abspath(args.show_dir)
    elif args.show_dir:
        cfg.visualizer.save_dir = os.path.abspath(args.show_dir)
    return 'default_hooks.visualization draws the predictions (--show, --show-dir)'


def _use_tta(cfg: Config, args: argparse.Namespace) -> str | None:
    if not args.tta:
        return None
    datasets = [dataset for _, dataset in leaves('', cfg.test_dataloader.dataset)]
    dataset = datasets[0]
    if not cfg.get('tta_pipeline'):
        # As it is tested, and mirrored. Annotations are loaded after that: they are not to be mirrored.
        loads = [step for step in dataset.pipeline if 'LoadAnnotations' in step['type']]
        *steps, pack = (step for step in dataset.pipeline if step not in loads)
        pack = {key: value for key, value in pack.items() if key != 'meta_keys'}  # by default with those of flips
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, *([step] for step in loads), [pack]])]
    if not cfg.get('tta_model') and cfg.get('default_scope') == 'mmdet':
        own = cfg.model.get('test_cfg') or {}
        nms = own.get('nms', dict(type='nms', iou_threshold=0.5))
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=own.get('max_per_img', 100)))
    elif not cfg.get('tta_model'):
        cfg.tta_model = dict(type='SegTTAModel')
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    return f'model={cfg.model.type} with tta_pipeline (--tta)'


def _save_predictions(cfg: Config, args: argparse.Namespace) -> str | None:
    if not args.out or is_pickle(args.out):
        return None
    given = cfg.test_evaluator
    evaluators = given if isinstance(given, (list, tuple)) else [given]
    found = False
    for evaluator in evaluators:
        if evaluator.type.endswith('IoUMetric'):
            evaluator.output_dir, evaluator.keep_results, found = args.out, True, True
        elif evaluator.type.endswith('CocoMetric'):
            evaluator.outfile_prefix, found = str(Path(args.out, 'predictions')), True
    if not found:
        kinds = ', '.join(evaluator.type for evaluator in evaluators)
        raise UserError(f'--out {args.out}: {kinds} cannot write predictions to a folder; name a .pkl file')
    Path(args.out).mkdir(parents=True, exist_ok=True)
    return f'test_evaluator writes its predictions to {args.out} (--out)'
